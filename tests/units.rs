//! The systemd units that we hand out, against the programs as they are.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::path::Path;
use std::process::Command;

/// Every option of every ExecStart= stands in the program's own help.
#[test]
fn units_start_programs_with_options_that_they_have() {
    let folder = tests::workspace().join("crates/strongroom/systemd");
    let mut looked_at = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "service") {
            let text = std::fs::read_to_string(&path).unwrap();
            let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
            let mut words = start.split_whitespace();
            let program = Path::new(words.next().unwrap()).file_name().unwrap().to_str().unwrap();
            let help = Command::new(tests::binary(program)).arg(words.next().unwrap()).arg("--help").output().unwrap();
            assert!(help.status.success(), "{}: {start}", path.display());
            let help = String::from_utf8(help.stdout).unwrap();
            let known = |option: &str| help.split_whitespace().any(|word| word.trim_end_matches(',') == option);
            for option in words.filter(|word| word.starts_with("--")) {
                assert!(known(option), "{}: {program} has no {option}", path.display());
            }
            looked_at.push(program.to_owned());
        }
    }
    looked_at.sort();
    assert_eq!(looked_at, ["hsm-pkcs11", "hsm-sim", "strongroom"]);
}
