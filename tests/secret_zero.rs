//! The README's story of Secret Zero: its very commands, in its order, with what they print.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::path::Path;
use std::process::Command;
use tests::{Dev, DevOptions, binary, workspace};

/// A certificate of an application, and its authority, as `openssl` makes them.
fn certificates(dir: &Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
                  -addext basicConstraints=critical,CA:TRUE -keyout ca-key.pem -out client-ca.pem && \
                  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=app -keyout app-key.pem -out app.csr && \
                  printf 'basicConstraints=CA:FALSE\\nextendedKeyUsage=clientAuth\\n' > ext && \
                  openssl x509 -req -in app.csr -CA client-ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext -out app.pem";
    let made = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Commands, and the lines that the README shows behind each.
fn story() -> Vec<(String, Vec<String>)> {
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let section = readme.split("## Secret Zero").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    for block in section.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push((command.to_owned(), Vec::new())),
                (None, Some((_, shown))) => shown.push(line.to_owned()),
                (None, None) => panic!("output before any command: {line}"),
            }
        }
    }
    steps
}

#[test]
fn the_readmes_story_of_secret_zero_is_true() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let authority = dir.path().join("client-ca.pem").display().to_string();
    let arguments = vec!["--client-ca".to_owned(), authority];
    let dev = Dev::start(DevOptions { arguments, ..DevOptions::default() });
    std::os::unix::fs::symlink(dev.data(), dir.path().join("strongroom-dev")).unwrap();
    let programs = binary("strongroom").parent().unwrap().to_owned();
    let steps = story();
    assert_eq!(steps.len(), 21, "the story has as many commands");
    for (command, shown) in steps {
        let mut shell = Command::new("bash");
        let script = format!("PATH={}:$PATH\n{command}", programs.display());
        shell.args(["-o", "pipefail", "-c", &script]).current_dir(dir.path());
        shell.env("STRONGROOM_ADDR", format!("https://{}", dev.addr())).env("STRONGROOM_CACERT", dev.ca());
        shell.env("STRONGROOM_TOKEN", dev.root_token()).env("HOME", dir.path());
        let output = shell.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let fails = shown.first().is_some_and(|line| line.starts_with("error: "));
        assert_eq!(output.status.success(), !fails, "{command}\n{said}");
        for line in &shown {
            assert!(said.lines().any(|told| told == line), "{command}\nshould print {line}\n{said}");
        }
    }
}
