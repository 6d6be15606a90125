//! SECURITY.md says what is true: the tests that it names are there, and each defence that can be taken out is named.

use std::{collections::BTreeSet, fs, path::Path};

use harness::breaches::all;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Whether there is such a test: `module::name` of these, `browser:module::name` of those in a browser, or `package:path::name` in the sources of a package.
fn exists(test: &str) -> bool {
    let (folder, path) = match test.split_once(':').filter(|(_, rest)| !rest.starts_with(':')) {
        Some(("browser", path)) => ("tests/browser".to_owned(), path),
        Some(("chat-core", path)) => ("core/src".to_owned(), path),
        Some(("harness", path)) => ("tests/src".to_owned(), path),
        Some((package, path)) if Path::new(&root().join(package)).is_dir() => (format!("{package}/src"), path),
        Some((package, path)) => (format!("functions/{package}/src"), path),
        None => ("tests/it".to_owned(), test),
    };
    let name = path.rsplit("::").next().unwrap();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read_to_string(&path).is_ok_and(|text| text.contains(&format!("fn {name}("))) {
                return true;
            }
        }
    }
    false
}

#[test]
fn each_defence_can_be_taken_out_and_its_test_is_there() {
    for breach in all() {
        breach.without(root()).unwrap();
        assert!(exists(breach.test), "there is no test {}", breach.test);
    }
}

#[test]
fn what_security_md_names_is_there_and_each_breach_is_named() {
    let text = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let quoted: BTreeSet<&str> = text.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
    assert!(quoted.len() > 50, "{}", quoted.len());
    for test in &quoted {
        assert!(exists(test), "SECURITY.md names {test}, which is not there");
    }
    for breach in all() {
        assert!(quoted.contains(breach.test), "SECURITY.md does not name {}", breach.test);
        assert!(breach.threat == "-" || text.contains(&format!("| {} |", breach.threat)), "no row {}", breach.threat);
    }
}
