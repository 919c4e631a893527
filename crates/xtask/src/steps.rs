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
    // first, for it puts an hsm-sim that injects faults where the next step puts the true one
    say("running the boundary's fault injection");
    run(cargo().args(["test", "--quiet", "--package", "hsm-sim", "--features", "fault", "--test", "faults"]))?;
    build_debug()?;
    say("running every test");
    run(cargo().args(["test", "--workspace", "--no-fail-fast"]))
}

/// Everything in one resolution of features, so that no later step of the same profile builds anything again; the
/// programs that tests start stand in target/debug afterwards.
fn build_debug() -> Result<()> {
    say("building programs and tests");
    run(cargo().args(["build", "--workspace", "--all-targets"]))
}

pub(crate) fn demo() -> Result<()> {
    // where the tests were built before, their build serves; a newcomer's takes what the demo needs
    let built = root().join("target/debug/hsm-pkcs11").exists() && root().join("target/debug/bench").exists();
    if built {
        build_debug()?;
    } else {
        run(cargo().args(["build", "--package", "strongroom", "--package", "hsm-sim", "--bins"]))?;
    }
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
    let folder = if smoke { "target/debug" } else { "target/release" };
    if smoke {
        build_debug()?;
    } else {
        say("building in release");
        run(cargo().args(["build", "--release"]).args(PROGRAMS).args(["--package", "bench", "--bins"]))?;
    }
    let mut bench = Command::new(root().join(folder).join("bench"));
    bench.current_dir(root());
    if smoke {
        bench.arg("--smoke");
    }
    run(bench.args(args))
}

/// What several servers on one store serve, and cost while idle.
pub(crate) fn nodes() -> Result<()> {
    crate::setup::install()?;
    say("building in release");
    run(cargo().args(["build", "--release"]).args(PROGRAMS).arg("--bins"))?;
    let test = ["test", "--release", "--package", "tests", "--test", "two_nodes", "how_much_two_nodes"];
    run(cargo().env("STRONGROOM_WINDOW_SECS", "3").args(test).args(["--", "--nocapture"]))
}

/// How fast users of a database are made and ended, and that they end where it goes away.
pub(crate) fn leases(users: u32) -> Result<()> {
    crate::setup::install()?;
    say("building in release");
    run(cargo().args(["build", "--release"]).args(PROGRAMS).arg("--bins"))?;
    let test =
        ["test", "--release", "--package", "tests", "--test", "dynamic", "--test", "dynamic_others", "--no-fail-fast"];
    let alone = ["--", "figures::", "expiries::", "--nocapture", "--test-threads", "1"];
    run(cargo().env("STRONGROOM_LEASES", users.to_string()).args(test).args(alone))
}

/// Users of a database whose server is killed at every step of making and ending them: in debug, for release has no such places.
pub(crate) fn kills(kills: u32) -> Result<()> {
    crate::setup::install()?;
    build_debug()?;
    let test = ["test", "--package", "tests", "--test", "dynamic", "killed_at_any_step"];
    run(cargo().env("STRONGROOM_KILLS", kills.to_string()).args(test).args(["--", "--nocapture"]))
}

/// Accounts of a database rotated for long, under clients that log in all the time.
pub(crate) fn rotations(seconds: u32) -> Result<()> {
    crate::setup::install()?;
    build_debug()?;
    let test = ["test", "--package", "tests", "--test", "dynamic", "a_client_that_connects_all_the_time"];
    run(cargo().env("STRONGROOM_ROTATION_SECS", seconds.to_string()).args(test).args(["--", "--nocapture"]))
}

/// Storage on PostgreSQL and users of it, with a newer server than Debian's.
pub(crate) fn postgres() -> Result<()> {
    crate::setup::install()?;
    let bin = crate::setup::newer_postgres()?;
    build_debug()?;
    let on_it =
        |test: &[&str]| run(cargo().env("STRONGROOM_POSTGRES_BIN", &bin).args(["test", "--workspace"]).args(test));
    on_it(&["--lib", "postgres"])?;
    on_it(&["--test", "database_plugins", "--test", "dynamic", "--test", "two_nodes", "--test", "migrate"])
}

/// Stores of many entries beside one of few. Takes some 20 GB of disk.
pub(crate) fn many(each: u32) -> Result<()> {
    crate::setup::install()?;
    say("building in release");
    run(cargo().args(["build", "--release"]).args(PROGRAMS).arg("--bins"))?;
    let test =
        ["test", "--release", "--package", "tests", "--test", "many", "--", "--nocapture", "--test-threads", "1"];
    run(cargo().env("STRONGROOM_MANY", each.to_string()).args(test))
}

/// The long forms that are tests: kills, and the numbers that the README promises, in release.
pub(crate) fn soak(kills: u32) -> Result<()> {
    crate::setup::install()?;
    say("building in release");
    run(cargo().args(["build", "--release"]).args(PROGRAMS).arg("--bins"))?;
    let tests =
        ["test", "--release", "--package", "tests", "--no-fail-fast", "--test", "crash", "--test", "specification"];
    run(cargo().env("STRONGROOM_KILLS", kills.to_string()).args(tests).args(["--", "--nocapture", "--test-threads=1"]))
}

/// The audit log's long forms, which are tests too, in release.
pub(crate) fn audit(losses: u32, mutations: u32, records: u64) -> Result<()> {
    crate::setup::install()?;
    say("building in release");
    run(cargo().args(["build", "--release"]).args(PROGRAMS).arg("--bins"))?;
    let shown = ["--nocapture", "--test-threads=1"];
    let mut log = cargo();
    log.env("STRONGROOM_POWER_LOSSES", losses.to_string()).env("STRONGROOM_MUTATIONS", mutations.to_string());
    log.args([
        "test",
        "--release",
        "--package",
        "audit",
        "--lib",
        "--",
        "log::tests::power",
        "verify::tests::mutations",
    ]);
    run(log.args(shown))?;
    let mut size = cargo();
    size.env("STRONGROOM_AUDIT_RECORDS", records.to_string());
    run(size.args(["test", "--release", "--package", "tests", "--test", "audit_size", "--"]).args(shown))
}

/// What an API server does while its KMS plugin is away: it waits for minutes.
pub(crate) fn kubernetes() -> Result<()> {
    crate::setup::install()?;
    run(cargo().args(["build"]).args(PROGRAMS).arg("--bins"))?;
    let tests = ["test", "--package", "tests", "--features", "long", "--test", "kubernetes", "kms::"];
    run(cargo().args(tests).args(["--", "--nocapture", "--test-threads=1"]))
}

/// Ten million decisions, each made twice.
pub(crate) fn policies(cases: u64) -> Result<()> {
    let random = ["test", "--release", "--package", "identity", "--lib", "--", "acl::tests::random", "--nocapture"];
    run(cargo().env("STRONGROOM_POLICY_CASES", cases.to_string()).args(random))
}

const PROGRAMS: [&str; 6] = ["--package", "strongroom", "--package", "hsm-sim", "--package", "hsm-pkcs11"];

pub(crate) fn fuzz(seconds: u32, target: Option<&str>) -> Result<()> {
    if !cargo().args(["fuzz", "--version"]).output().is_ok_and(|output| output.status.success()) {
        say("installing cargo-fuzz");
        run(cargo().args(["install", "--debug", "--locked", "--quiet", "cargo-fuzz"]))?;
    }
    let targets = match target {
        Some(target) => vec![target.to_owned()],
        None => fuzz_targets()?,
    };
    let mut found = Vec::new();
    for target in targets {
        say(&format!("fuzzing {target} for {seconds} s"));
        // what it finds interesting grows outside the repository; what is kept there is where it begins
        let (grown, kept) = (root().join("target/fuzz/corpus").join(&target), root().join("fuzz/corpus").join(&target));
        std::fs::create_dir_all(&grown).with_context(|| format!("cannot make {}", grown.display()))?;
        // sanitizers are behind an unstable flag; the bootstrap switch opens it on the stable compiler
        let mut fuzz = cargo();
        fuzz.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", root().join("target/fuzz"));
        fuzz.args(["fuzz", "run", "--fuzz-dir", "fuzz", &target]).args([&grown, &kept]).args([
            "--",
            &format!("-max_total_time={seconds}"),
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ]);
        // the others are fuzzed all the same
        if run(&mut fuzz).is_err() {
            found.push(target);
        }
    }
    if found.is_empty() { Ok(()) } else { bail!("{}: see fuzz/artifacts", found.join(", ")) }
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
