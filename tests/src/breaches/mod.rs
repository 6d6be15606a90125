//! Defences of SECURITY.md, each with the change to one file that takes it out and the test that is red then.
//!
//! `cargo breaches` makes each change in a copy of the sources and runs its test. What stands here is checked with every
//! `cargo test`: that each change can still be made, and that SECURITY.md and the tests it names are in step.

mod edge;
mod erasure;
mod interface;
mod page;
mod pipes;
mod secrets;
mod standing;
mod tokens;
mod walls;

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

/// A defence, and how it is taken out.
#[derive(Debug, Clone, Copy)]
pub struct Breach {
    /// The threat's number in SECURITY.md, or `-`.
    pub threat: &'static str,
    /// What protects, in one sentence.
    pub defence: &'static str,
    /// The file that holds it, from the root of the workspace.
    pub file: &'static str,
    /// What is replaced there; it occurs once.
    pub find: &'static str,
    /// What stands there instead: without the defence, and still compiled.
    pub replace: &'static str,
    /// The test that is red then: `module::name` of the integration tests, `browser:module::name` of those in a browser,
    /// or `package:path::of::a::unit_test`.
    pub test: &'static str,
}

impl Breach {
    /// The file without the defence.
    ///
    /// # Errors
    /// If it cannot be taken out as it stands here.
    pub fn without(&self, root: &Path) -> Result<String> {
        let text = fs::read_to_string(root.join(self.file)).with_context(|| self.file.to_owned())?;
        let found = text.matches(self.find).count();
        ensure!(found == 1, "{}: «{}» occurs {found} times, not once ({})", self.file, self.find, self.defence);
        Ok(text.replace(self.find, self.replace))
    }
}

/// All of them, by what they protect.
#[must_use]
pub fn all() -> Vec<Breach> {
    [
        tokens::BREACHES,
        standing::BREACHES,
        walls::BREACHES,
        edge::BREACHES,
        secrets::BREACHES,
        pipes::BREACHES,
        erasure::BREACHES,
        interface::BREACHES,
        page::BREACHES,
    ]
    .concat()
}
