//! A fresh SoftHSM2 token in a folder of its own.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a boundary needs to use it.
#[derive(Debug)]
pub(crate) struct Token {
    /// RFC 7512.
    pub(crate) uri: String,
    /// Value of `SOFTHSM2_CONF`.
    pub(crate) config: PathBuf,
}

/// The module's file, where SoftHSM2 is installed.
pub(crate) fn module() -> Option<PathBuf> {
    MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}

pub(crate) fn token(folder: &Path, module: &Path) -> Result<Token> {
    std::fs::create_dir_all(folder.join("tokens"))?;
    let config = folder.join("softhsm2.conf");
    let lines = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        folder.join("tokens").display()
    );
    std::fs::write(&config, lines)?;
    let pin = folder.join("pin");
    std::fs::write(&pin, PIN)?;
    std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "bench", "--pin", PIN, "--so-pin", PIN])
        .env("SOFTHSM2_CONF", &config)
        .stdout(Stdio::null())
        .status()
        .context("cannot start softhsm2-util")?;
    if !made.success() {
        bail!("softhsm2-util made no token");
    }
    let uri = format!("pkcs11:token=bench?module-path={}&pin-source=file:{}", module.display(), pin.display());
    Ok(Token { uri, config })
}

/// Of a token that lives for one run.
const PIN: &str = "123456";
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];
