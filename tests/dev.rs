//! What `strongroom dev` does where a process was killed at a bad moment, or two are started at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::time::Duration;
use tests::{Dev, DevOptions, Pid, until};

/// kill -9 between the domain key's birth and its backup: losing the key would be losing everything.
#[test]
fn a_domain_key_whose_backup_was_not_written_gets_one_at_the_next_start() {
    let mut dev = Dev::sim();
    dev.end();
    let backup = dev.data().join("backup");
    let names = |backup: &std::path::Path| {
        let mut names: Vec<_> = std::fs::read_dir(backup).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&backup), ["package", "share-1"]);
    // killed before anything, or only the share, was written
    for left in [&[][..], &["share-1"]] {
        for name in ["package", "share-1"] {
            if !left.contains(&name) {
                std::fs::remove_file(backup.join(name)).unwrap();
            }
        }
        std::fs::write(backup.join("in-progress"), "").unwrap();
        dev.start_again().unwrap();
        dev.end();
        assert_eq!(names(&backup), ["package", "share-1"]);
    }
    // killed when all was written; and one that was taken away stays away
    std::fs::write(backup.join("in-progress"), "").unwrap();
    dev.start_again().unwrap();
    dev.end();
    assert_eq!(names(&backup), ["package", "share-1"]);
    for name in ["package", "share-1"] {
        std::fs::remove_file(backup.join(name)).unwrap();
    }
    dev.start_again().unwrap();
    dev.end();
    assert!(names(&backup).is_empty());
}

#[test]
fn two_at_once_on_one_folder_and_the_first_serves_on() {
    let first = Dev::start(DevOptions::default());
    let children = (first.server(), first.boundary());
    let second = std::process::Command::new(tests::binary("strongroom"))
        .args(["dev", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(first.data())
        .output()
        .unwrap();
    assert!(!second.status.success() && second.stdout.is_empty());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process"), "{second:?}");
    assert_eq!((first.server(), first.boundary()), children);
    assert!(std::net::TcpStream::connect(first.addr()).is_ok());
}

#[test]
fn a_parent_that_is_killed_while_its_children_are_stopped_leaves_none_behind() {
    let dev = Dev::sim();
    let children: Vec<Pid> = [dev.server(), dev.boundary()].into_iter().flatten().collect();
    assert_eq!(children.len(), 2);
    children.iter().for_each(|child| child.stop());
    dev.parent().kill();
    children.iter().for_each(|child| child.go_on());
    until("the children end", Duration::from_secs(15), || children.iter().all(|child| !child.is_alive()));
}
