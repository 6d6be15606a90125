//! The hub's image, where no container engine is at hand: its files in a folder of their own, its program in there with
//! that folder for its root, as the image's user.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use harness::{
    app::App,
    clients::Socket,
    hub_process::{HubProcess, environment},
    lambda::binaries,
    product::QueueKind,
    pump::create_queue,
    template::root,
};
use tokio::process::Command;

use crate::queue::endpoint;

/// The libraries that the image's base has, of those that a Rust program is linked with.
/// Source: <https://github.com/GoogleContainerTools/distroless/blob/main/cc/README.md>.
const IN_BASE: &[&str] = &["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"];

/// What the last stage of the Dockerfile says, line by line.
fn stage() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let last = text.rsplit("\nFROM ").next().unwrap();
    let lines = format!("FROM {last}");
    lines.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

fn said<'a>(stage: &'a [Vec<String>], word: &str) -> Vec<&'a [String]> {
    stage.iter().filter(|line| line[0] == word).map(|line| &line[1..]).collect()
}

/// Puts a file where the image has it.
fn put(image: &Path, from: &Path, to: &str) {
    let to = image.join(to.trim_start_matches('/'));
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}

/// Every file below, with its time.
fn listing(folder: &Path, all: &mut BTreeSet<(PathBuf, i64)>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let about = entry.metadata().unwrap();
        all.insert((entry.path(), about.mtime_nsec()));
        if about.is_dir() {
            listing(&entry.path(), all);
        }
    }
}

#[tokio::test]
async fn the_image_holds_all_that_the_hub_needs_and_it_serves_as_nobody_and_writes_nowhere() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        // Past the runner, which keeps what a test prints to itself.
        writeln!(io::stderr(), "NOT TRIED: a folder can be made a program's root by root alone").unwrap();
        return;
    }
    let stage = stage();
    assert_eq!(said(&stage, "FROM"), [["gcr.io/distroless/cc-debian12:nonroot"]]);
    assert_eq!(said(&stage, "ENTRYPOINT"), [[r#"["/hub"]"#]]);
    let user = said(&stage, "USER")[0][0].clone();

    let folder = tempfile();
    let image = folder.join("image");
    let hub = binaries().await.unwrap().join("hub");
    let sources: Vec<&String> = said(&stage, "COPY").into_iter().map(|words| &words[words.len() - 1]).collect();
    assert_eq!(sources, ["/opt/rds-ca.pem", "/hub"]);
    put(&image, &hub, "/hub");
    // The base's part: the loader, libraries, authorities.
    let needs = Command::new("ldd").arg(&hub).output().await.unwrap();
    for line in String::from_utf8(needs.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, "=>", path, _] => {
                assert!(IN_BASE.contains(name), "the image's base has no {name}");
                put(&image, Path::new(path), path);
            }
            [loader, _] if loader.starts_with('/') => put(&image, Path::new(loader), loader),
            _ => {}
        }
    }
    put(&image, Path::new("/etc/ssl/certs/ca-certificates.crt"), "/etc/ssl/certs/ca-certificates.crt");
    let start = folder.join("hub-in-image");
    let line = format!("#!/bin/sh\nexec {} --userspec={user} {} /hub \"$@\"\n", chroot(), image.display());
    fs::write(&start, line).unwrap();
    fs::set_permissions(&start, Permissions::from_mode(0o755)).unwrap();
    let mut before = BTreeSet::new();
    listing(&image, &mut before);

    let queue = create_queue(&endpoint().await, "image").await.unwrap();
    let app = App::with(|setting| setting.queue = QueueKind::Sqs(queue)).await.unwrap();
    let mut hub = HubProcess::start(&start, &environment(&app.setting).unwrap()).await.unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", hub.pid())).unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    assert!(ids.split_whitespace().all(|id| user.starts_with(&format!("{id}:"))), "{ids} is not {user}");
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (mut socket, _) = Socket::join(&hub.ws(), &conversation, &app.token(app.user("ben@acme"))).await.unwrap();
    socket.message("from inside", None).await.unwrap();
    socket.until("response").await.unwrap();
    hub.signal("TERM").unwrap();
    socket.until("reconnect").await.unwrap();
    assert!(hub.exit().await.unwrap().success(), "{}", hub.said());
    let mut after = BTreeSet::new();
    listing(&image, &mut after);
    assert_eq!(before, after, "it wrote into its image");
    fs::remove_dir_all(&folder).unwrap();
    app.finish().await.unwrap();
}

fn chroot() -> &'static str {
    ["/usr/sbin/chroot", "/usr/bin/chroot"].into_iter().find(|path| Path::new(path).is_file()).expect("coreutils")
}

/// A folder of this test's own, in which others may look.
fn tempfile() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("chat-image-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    folder
}
