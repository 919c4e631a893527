//! The workshop's steps, each a few cargo calls.

use crate::setup::{run, say};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root());
    cargo
}

pub(crate) fn test() -> Result<()> {
    say("building the binaries that the tests start");
    run(cargo().args(["build", "--workspace", "--bins"]))?;
    say("running every test");
    run(cargo().args(["test", "--workspace", "--no-fail-fast"]))
}

pub(crate) fn demo() -> Result<()> {
    run(cargo().args(["build", "--package", "strongroom", "--package", "hsm-sim", "--bins"]))?;
    run(Command::new(root().join("target/debug/strongroom")).arg("demo"))
}

pub(crate) fn lint() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    deny()
}

fn deny() -> Result<()> {
    if !cargo().args(["deny", "--version"]).output().is_ok_and(|output| output.status.success()) {
        say("installing cargo-deny");
        run(cargo().args(["install", "--debug", "--locked", "--quiet", "cargo-deny@0.20.2"]))?;
    }
    run(cargo().args(["deny", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    match advisory_database() {
        Some(_) => run(cargo().args(["deny", "--offline", "check", "advisories"])),
        None => {
            say("SKIPPED: advisories were not checked, no advisory database is at hand (~/.cargo/advisory-dbs)");
            Ok(())
        }
    }
}

fn advisory_database() -> Option<PathBuf> {
    let folder = std::env::home_dir()?.join(".cargo/advisory-dbs");
    std::fs::read_dir(folder).ok()?.next()?.ok().map(|entry| entry.path())
}

pub(crate) fn bench(smoke: bool, args: &[String]) -> Result<()> {
    let profile: &[&str] = if smoke { &[] } else { &["--release"] };
    let folder = if smoke { "target/debug" } else { "target/release" };
    run(cargo().arg("build").args(profile).args([
        "--package",
        "bench",
        "--package",
        "strongroom",
        "--package",
        "hsm-sim",
        "--package",
        "hsm-pkcs11",
        "--bins",
    ]))?;
    let mut bench = Command::new(root().join(folder).join("bench"));
    bench.current_dir(root());
    if smoke {
        bench.arg("--smoke");
    }
    run(bench.args(args))
}

pub(crate) fn soak(kills: u32) -> Result<()> {
    run(cargo().args(["build", "--release", "--package", "strongroom", "--package", "hsm-sim", "--bins"]))?;
    run(cargo().env("STRONGROOM_KILLS", kills.to_string()).args([
        "test",
        "--release",
        "--package",
        "tests",
        "--test",
        "crash",
        "--",
        "--nocapture",
    ]))
}

pub(crate) fn fuzz(seconds: u32, target: Option<&str>) -> Result<()> {
    if !cargo().args(["fuzz", "--version"]).output().is_ok_and(|output| output.status.success()) {
        say("installing cargo-fuzz");
        run(cargo().args(["install", "--debug", "--locked", "--quiet", "cargo-fuzz"]))?;
    }
    let targets = match target {
        Some(target) => vec![target.to_owned()],
        None => fuzz_targets()?,
    };
    for target in targets {
        say(&format!("fuzzing {target} for {seconds} s"));
        // sanitizers are behind an unstable flag; the bootstrap switch opens it on the stable compiler
        run(cargo().env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", root().join("target/fuzz")).args([
            "fuzz",
            "run",
            &target,
            "--",
            &format!("-max_total_time={seconds}"),
            "-rss_limit_mb=2048",
        ]))?;
    }
    Ok(())
}

fn fuzz_targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        if let Some(name) = entry?.path().file_stem() {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    if targets.is_empty() { bail!("no fuzz targets in {}", folder.display()) } else { Ok(targets) }
}
