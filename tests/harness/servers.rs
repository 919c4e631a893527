//! How servers of others are started.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// Nobody's, a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// As this user where the tests are root, who then owns the folder; as ourselves elsewhere.
pub(crate) fn as_user(user: &str, program: &str, folder: &Path) -> Command {
    let mut command = if rustix::process::getuid().is_root() {
        let owned = Command::new("chown").arg("-R").arg(user).arg(folder).status().unwrap();
        assert!(owned.success(), "{user} owns its folder");
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).args(["--clear-groups", program]);
        command
    } else {
        Command::new(program)
    };
    // several servers at once name their temporary tables alike
    command.current_dir(folder).env("TMPDIR", folder);
    command
}
