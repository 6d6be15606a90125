//! `cargo describe`: writes the documents of the interface to `docs/`: see `harness::described`.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use harness::described::documents;

#[expect(clippy::print_stdout, reason = "a command that reports")]
#[tokio::main]
async fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ lies in the workspace")?;
    for (path, document) in documents().await? {
        let file = root.join(&path);
        let fresh = fs::read_to_string(&file).is_ok_and(|before| before == document);
        fs::create_dir_all(file.parent().context("a document lies in a folder")?)?;
        fs::write(file, document)?;
        println!("{path}: {}", if fresh { "as it was" } else { "written" });
    }
    Ok(())
}
