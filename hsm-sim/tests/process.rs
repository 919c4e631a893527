//! The program itself, started for real: what it takes from itself, and what it refuses to start without.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hsm-sim"));
    command.arg("check").arg("--dir").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    dir
}

/// Starts it, reads its lines up to `done`, and leaves it running.
fn started(command: &mut Command) -> (Child, Vec<String>) {
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let lines = lines.take_while(|line| line != "done").collect();
    (child, lines)
}

fn finished(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn every_measure_of_the_confinement_is_in_force() {
    let dir = folder();
    let (mut child, lines) = started(&mut command(dir.path()));
    let errors = || finished(&mut command(folder().path())).stderr;
    for name in ["core", "dumpable", "mlock", "memfd_secret", "no_new_privs", "landlock", "seccomp"] {
        let line = format!("{name} enforced");
        assert!(lines.contains(&line), "{line}: {lines:?} {}", String::from_utf8_lossy(&errors()));
    }
    assert!(lines.contains(&"outside_files refused".to_owned()), "{lines:?}");
    assert!(lines.contains(&"state Uninitialised".to_owned()), "{lines:?}");

    let proc = Path::new("/proc").join(child.id().to_string());
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let ipc_lock = 1u64 << 14;
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        let kept = u64::from_str_radix(&field(set), 16).unwrap();
        assert_eq!(kept & !ipc_lock, 0, "{set} {kept:x}");
    }
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"]);
    let maps = std::fs::read_to_string(proc.join("smaps")).unwrap();
    let secret = maps.split("/secretmem").nth(1).unwrap_or_else(|| panic!("no secret page: {maps}"));
    let flags = secret.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
    for flag in [" dd", " dc", " lo"] {
        assert!(flags.contains(flag), "not dumped, not copied, locked: {flags}");
    }
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let dir = folder();
    let open = dir.path().join("open");
    std::fs::write(&open, [7; 32]).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(exposed.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let unlock = format!("--unlock=file:{}", open.display());
    for (mut command, message) in [
        (command(exposed.path()), "mode 0700"),
        (
            {
                let mut c = command(dir.path());
                c.arg(unlock);
                c
            },
            "mode 0600",
        ),
        (
            {
                let mut c = command(dir.path());
                c.arg("--unlock=file:/nowhere");
                c
            },
            "could not be read",
        ),
        (
            {
                let mut c = command(dir.path());
                c.arg("--unlock=abc");
                c
            },
            "--unlock is not",
        ),
        (
            {
                let mut c = command(dir.path());
                c.arg("--allow-missing=everything");
                c
            },
            "not one of core",
        ),
    ] {
        let output = finished(&mut command);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(message), "{message}: {errors}");
    }
}

#[test]
fn an_unlock_secret_comes_by_descriptor_too() {
    let dir = folder();
    let secret = folder();
    let path = secret.path().join("unlock");
    std::fs::write(&path, [7; 32]).unwrap();
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_hsm-sim");
    let line = format!("exec {program} check --dir {} --unlock fd:9 9<{}", dir.path().display(), path.display());
    command.args(["-c", &line]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let (mut child, lines) = started(&mut command);
    assert!(lines.contains(&"state Uninitialised".to_owned()), "{lines:?}");
    assert!(!Path::new(&format!("/proc/{}/fd/9", child.id())).exists(), "it is closed once it has been read");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn one_folder_serves_one_process() {
    let dir = folder();
    let (mut child, _lines) = started(&mut command(dir.path()));
    let second = finished(&mut command(dir.path()));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process uses the state folder"));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(finished(&mut command(dir.path())).status.success());
}

#[test]
fn a_panic_or_a_forbidden_system_call_ends_the_process() {
    let dir = folder();
    for (fault, signal) in [("panic", 6), ("system-call", 31)] {
        let output = finished(command(dir.path()).args(["--fault", fault]));
        if hsm_sim::fault::BUILD {
            assert_eq!(output.status.signal(), Some(signal), "{fault}");
        } else {
            assert_eq!(output.status.code(), Some(2), "a build for production injects nothing");
        }
        assert!(output.stdout.is_empty(), "{fault}");
    }
}
