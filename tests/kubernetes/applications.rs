//! Applications in Pods: `strongroom login` and `strongroom agent` with a projected token, which somebody else renews.

use crate::stand::{AUDIENCE, shared};
use serde_json::json;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tests::{binary, until};

/// Ends with this value.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pods_token_is_all_that_an_application_needs() {
    let stand = shared();
    let (api, mount, dir) = (&stand.api, stand.mount(), tempfile::tempdir().unwrap());
    api.namespace("apps", json!({}));
    api.account("apps", "web");
    stand.role(&mount, "web", ("apps", "web"), json!({"token_ttl": "4s", "token_max_ttl": "8s"}));
    let jwt_file = dir.path().join("token");
    let project = || std::fs::write(&jwt_file, api.token("apps", "web", Some(AUDIENCE), None)).unwrap();
    project();
    let address = format!("http://{}", stand.node.addr());
    let cli = |jwt_file: &std::path::Path| {
        let mut command = Command::new(binary("strongroom"));
        command
            .args(["login", "--print", "--mount", &mount, "kubernetes", "--role", "web", "--jwt-file"])
            .arg(jwt_file);
        command.env("STRONGROOM_ADDR", &address).env("HOME", dir.path()).stdin(Stdio::null()).output().unwrap()
    };
    let output = cli(&jwt_file);
    let token = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stand.password(token.trim()).as_deref(), Some("p-1"));
    let others = dir.path().join("others");
    std::fs::write(&others, api.token("apps", "web", None, None)).unwrap();
    let refused = cli(&others);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no login by this role"), "{refused:?}");
    // the agent: logs in again and again, with what stands in the file then
    let path = |name: &str| dir.path().join(name).display().to_string();
    let config = format!(
        "refresh_secs = 1\nstatus_file = \"{}\"\n[server]\naddress = \"{address}\"\n\
         [login]\nmethod = \"kubernetes\"\nmount = \"{mount}\"\nrole = \"web\"\njwt_file = \"{}\"\n\
         [[template]]\ncontents = \"{{{{ kv('secret/app').password }}}}\"\ndestination = \"{}\"\n",
        path("status.json"),
        jwt_file.display(),
        path("password"),
    );
    std::fs::write(path("agent.toml"), config).unwrap();
    let mut command = Command::new(binary("strongroom"));
    command.arg("agent").arg("--config").arg(path("agent.toml")).stdin(Stdio::null()).stdout(Stdio::null());
    let _agent = Agent(command.stderr(std::fs::File::create(path("agent.log")).unwrap()).spawn().unwrap());
    let said = |name: &str| std::fs::read_to_string(path(name)).unwrap_or_default();
    until("the password is rendered", Duration::from_secs(30), || said("password") == "p-1");
    let logins =
        || serde_json::from_str::<serde_json::Value>(&said("status.json")).unwrap_or_default()["logins"].as_u64();
    project();
    until("it has logged in three times", Duration::from_secs(60), || {
        project();
        logins().is_some_and(|logins| logins >= 3)
    });
}

#[test]
fn a_stock_client_configures_and_logs_in() {
    let stand = shared();
    let (api, dir) = (&stand.api, tempfile::tempdir().unwrap());
    api.namespace("stock", json!({}));
    api.account("stock", "web");
    let mut python = Command::new(tests::workspace().join("target/python/bin/python"));
    python.arg(tests::workspace().join("tests/kubernetes/stock.py")).arg(format!("http://{}", stand.node.addr()));
    let reviewer = api.token("vault", "reviewer", None, None);
    let jwt = api.token("stock", "web", Some(AUDIENCE), None);
    for (name, text) in [
        ("root", stand.node.root_token().unwrap()),
        ("host", api.url()),
        ("ca", api.ca()),
        ("reviewer", reviewer),
        ("jwt", jwt),
    ] {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        python.arg(file);
    }
    let output = python.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("hvac and Kubernetes: 9 checks done"), "{said}");
}
