//! A fresh SoftHSM2 token in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug)]
pub struct Token {
    dir: tempfile::TempDir,
    module: PathBuf,
}

impl Token {
    pub fn new() -> Self {
        let module = MODULES.iter().map(PathBuf::from).find(|path| path.exists());
        let module = module.expect("SoftHSM2 is not installed: `cargo xtask test` installs it");
        let token = Self { dir: tempfile::tempdir().unwrap(), module };
        std::fs::create_dir(token.dir.path().join("tokens")).unwrap();
        let tokens = token.dir.path().join("tokens");
        let lines =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        std::fs::write(token.config(), lines).unwrap();
        token.write_pin("pin", PIN);
        token.write_pin("wrong-pin", "000000");
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", PIN])
            .env("SOFTHSM2_CONF", token.config())
            .output()
            .expect("softhsm2-util starts: `cargo xtask test` installs it");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        token
    }

    fn write_pin(&self, name: &str, pin: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.path().join(name);
        std::fs::write(&path, pin).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Value of `SOFTHSM2_CONF`.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("softhsm2.conf")
    }

    /// Where the token's files stand.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// RFC 7512.
    pub fn uri(&self) -> String {
        self.uri_with("pin")
    }

    /// With a PIN that is not the token's.
    pub fn wrong_uri(&self) -> String {
        self.uri_with("wrong-pin")
    }

    fn uri_with(&self, pin: &str) -> String {
        let pin = self.dir.path().join(pin);
        format!("pkcs11:token={LABEL}?module-path={}&pin-source=file:{}", self.module.display(), pin.display())
    }
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

const LABEL: &str = "strongroom-test";
/// Of tokens that live as long as a test.
const PIN: &str = "123456";
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
];
