//! The house's law as a test: who may import whom, how long a file and a function may be, where `unsafe` may stand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The table of who imports whom. A crate may list less, never more.
const WALLS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("envelope", &[]),
    ("hsm-api", &["envelope"]),
    ("hsm-channel", &["hsm-api", "envelope"]),
    ("hsm", &["hsm-channel", "hsm-api", "envelope"]),
    ("hsm-serve", &["hsm-channel", "hsm-api", "envelope"]),
    ("hsm-sim", &["hsm-serve", "hsm-channel", "hsm-api", "envelope"]),
    ("hsm-pkcs11", &["hsm-serve", "hsm-channel", "hsm-api", "envelope"]),
    ("test-postgres", &[]),
    ("storage", &["envelope"]),
    ("audit", &["envelope"]),
    ("identity", &["storage", "audit", "envelope"]),
    ("kms", &["hsm-api", "identity", "storage", "audit", "envelope"]),
    ("vault", &["kms", "identity", "storage", "audit", "envelope"]),
    ("api", &["proto", "vault", "kms", "identity", "storage", "audit", "hsm-api", "envelope"]),
    ("plugins", &["vault", "kms", "identity", "audit", "envelope"]),
    ("client", &["proto", "envelope"]),
    (
        "strongroom",
        &[
            "api",
            "audit",
            "client",
            "envelope",
            "hsm",
            "hsm-api",
            "hsm-channel",
            "identity",
            "kms",
            "plugins",
            "proto",
            "storage",
            "vault",
        ],
    ),
    ("xtask", &[]),
    (
        "bench",
        &["api", "audit", "client", "envelope", "hsm", "hsm-api", "identity", "kms", "proto", "storage", "strongroom"],
    ),
];

/// The only files where `unsafe` may stand.
const UNSAFE_FILES: &[&str] = &["hsm-sim/src/jail.rs"];

const FILE_LINES_MAX: usize = 1000;
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the workspace").to_owned()
}

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, out: &mut Vec<(PathBuf, String)>) {
        let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !matches!(name.as_str(), "target" | ".git" | "corpus" | "artifacts") {
                walk(&path, out);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                out.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    let mut out = Vec::new();
    for room in ["proto", "crates", "hsm-sim", "tests", "fuzz"] {
        walk(&root().join(room), &mut out);
    }
    assert!(out.len() > 50, "only {} sources were found", out.len());
    out
}

#[test]
fn nobody_imports_through_a_wall() {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(root()).no_deps().exec().unwrap();
    let rooms: BTreeSet<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let walls: BTreeMap<&str, &[&str]> = WALLS.iter().copied().collect();
    let mut checked = 0;
    for package in metadata.packages.iter().filter(|package| package.name.as_str() != "tests") {
        let allowed =
            walls.get(package.name.as_str()).unwrap_or_else(|| panic!("{} has no row in WALLS", package.name));
        for dependency in &package.dependencies {
            let development = dependency.kind == cargo_metadata::DependencyKind::Development;
            if rooms.contains(&dependency.name) && !development {
                assert!(allowed.contains(&dependency.name.as_str()), "{} imports {}", package.name, dependency.name);
                checked += 1;
            }
        }
    }
    assert!(checked > 25, "only {checked} imports were checked");
    for room in walls.keys() {
        assert!(rooms.contains(*room), "{room} stands in WALLS and not in the house");
    }
}

#[test]
fn the_top_level_shows_what_the_card_says() {
    let visible: BTreeSet<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    let expected = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "crates",
        "deny.toml",
        "fuzz",
        "hsm-sim",
        "proto",
        "tests",
    ];
    assert_eq!(visible, expected.into_iter().map(str::to_owned).collect());
}

#[test]
fn files_and_functions_fit_their_walls() {
    for (path, text) in sources() {
        assert!(text.lines().count() <= FILE_LINES_MAX, "{} is too long", path.display());
        let in_tests = path.starts_with("tests")
            || path.ends_with("tests.rs")
            || path.components().any(|c| c.as_os_str() == "tests");
        let product = if in_tests { "" } else { text.split("#[cfg(test)]\nmod ").next().unwrap_or("") };
        for (name, line, length) in functions(product) {
            assert!(length <= FUNCTION_LINES_MAX, "{}:{line}: `{name}` has {length} lines", path.display());
        }
    }
}

#[test]
fn unsafe_stands_in_one_file_a_process() {
    for (path, text) in sources() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let here = code
            .filter(|line| line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl"))
            .count();
        let itself = path == Path::new("tests/tidy.rs");
        let allowed = itself || UNSAFE_FILES.contains(&path.to_str().unwrap());
        assert!(here == 0 || allowed, "{} holds unsafe code", path.display());
        if !itself {
            assert!(
                text.matches("// SAFETY").count() >= here,
                "{} has unsafe code without a SAFETY note",
                path.display()
            );
        }
    }
}

#[test]
fn nothing_is_left_undone_or_misnamed() {
    let words =
        [["todo", "!("].concat(), ["unimplemented", "!("].concat(), ["FIX", "ME"].concat(), ["#[ig", "nore"].concat()];
    for (path, text) in sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} holds {word}", path.display());
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        for name in ["utils", "util", "common", "helper", "helpers", "misc", "manager"] {
            assert_ne!(stem, name, "{} is named after nothing", path.display());
        }
    }
}

/// (name, line, length) of each function with a body, by brace counting on text without strings and comments.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<String> = text.lines().map(bare).collect();
    let mut out = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(at) =
            line.find("fn ").filter(|at| *at == 0 || !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        else {
            continue;
        };
        let name: String = line[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if name.is_empty() {
            continue;
        }
        let mut depth = 0usize;
        let mut opened = false;
        'body: for (end, line) in lines.iter().enumerate().skip(start) {
            for c in line.chars() {
                match c {
                    '{' => (depth, opened) = (depth + 1, true),
                    '}' => depth = depth.saturating_sub(1),
                    ';' if !opened => break 'body,
                    _ => {}
                }
                if opened && depth == 0 {
                    out.push((name.clone(), start + 1, end - start + 1));
                    break 'body;
                }
            }
        }
    }
    out
}

fn bare(line: &str) -> String {
    let mut out = String::new();
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '"' => in_string = !in_string,
            '\'' if !in_string => {
                // a character literal, not a lifetime
                let rest: String = chars.clone().take(3).collect();
                if let Some(end) = rest.find('\'').filter(|end| *end > 0) {
                    chars.by_ref().take(end + 1).for_each(drop);
                }
            }
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => out.push(c),
        }
    }
    out
}
