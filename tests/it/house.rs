//! The house's own rules, for whoever adds a room.

use std::path::Path;

#[test]
fn every_member_lives_under_the_lints_that_forbid_unsafe_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &str| std::fs::read_to_string(root.join(path).join("Cargo.toml")).unwrap();
    let workspace = read("");
    assert!(workspace.contains("\n[workspace.lints.rust]\nunsafe_code = \"forbid\"\n"));
    let (_, members) = workspace.split_once("\nmembers = [").unwrap();
    let members: Vec<&str> = members.split(']').next().unwrap().split('"').skip(1).step_by(2).collect();
    assert!(members.len() >= 6, "{members:?}");
    for member in members {
        assert!(read(member).contains("\n[lints]\nworkspace = true\n"), "{member} must have [lints] workspace = true");
    }
    assert!(read("tests/fuzz").contains("\n[lints.rust]\nunsafe_code = \"forbid\"\n"), "nor does who is no member");
}
