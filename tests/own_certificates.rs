//! A server, its clients and the certificates by which they know each other, issued by the server itself and kept fresh by agents.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

#[path = "own_certificates/stand.rs"]
mod stand;

use serde_json::{Value, json};
use stand::{Program, Stand};
use std::time::Duration;
use tests::until;

const WITHIN: Duration = Duration::from_secs(60);

/// Beside the server: its certificate, and one that lives shorter.
const SERVERS: &str = r#"
[login]
method = "token-file"
file = "DIR/servers-token"
[[certificate]]
role = "server"
common_name = "localhost"
ip_sans = ["127.0.0.1"]
certificate = "DIR/server.pem"
[[certificate]]
role = "short"
common_name = "short.example"
certificate = "DIR/short.pem"
key = "DIR/short-key.pem"
ca = "DIR/above.pem"
[exec]
command = ["sh", "-c", "trap 'echo hup >> DIR/heard' HUP; while :; do sleep 0.05; done"]
on_change = "SIGHUP"
"#;

/// Somewhere else: logs in by the certificate that it keeps fresh.
const CLIENTS: &str = r#"
client_certificate = "DIR/client.pem"
client_key = "DIR/client.pem"
[login]
method = "cert"
role = "app"
[[certificate]]
role = "client"
common_name = "app.example"
certificate = "DIR/client.pem"
[[template]]
contents = "{{ kv('secret/app').password }}"
destination = "DIR/password"
"#;

#[test]
fn certificates_of_the_servers_own_are_replaced_on_both_sides_and_nobody_is_turned_away() {
    let mut stand = Stand::new();
    stand.put("first-password");
    let servers = stand.agent("server", SERVERS);
    let clients = stand.agent("client", CLIENTS);
    let (plugin, application) = (stand.plugin(), stand.application());
    let (visitor, (_witness, onlooker)) = (stand.visitor(), stand.witness());
    let is_said = |stand: &Stand, text: &str| {
        until(&format!("the client is told {text}"), WITHIN, || stand.says("password") == text);
    };
    is_said(&stand, "first-password");
    servers.is_replaced(1);
    clients.is_replaced(1);
    // the certificate of now is another one soon, and then none
    stand.copy("client.pem", "old.pem");
    assert_eq!(stand.login("old.pem"), 200);
    // pki refuses: what stands stays, and its end is told
    stand.done("DELETE", "pki/roles/short", Value::Null);
    let short = |servers: &Program| servers.status()["certificates"][1].clone();
    until("its end is told", WITHIN, || short(&servers)["expired"] == json!(true));
    assert!(servers.log().contains("the certificate has expired"), "{}", servers.log());
    assert!(servers.status()["trouble"].as_str().unwrap().starts_with("certificate[1]: "), "{}", servers.status());
    let last = short(&servers)["serial"].clone();
    stand.role("short", "6s");
    until("there is another one", WITHIN, || short(&servers)["expired"] == json!(false));
    assert_ne!(short(&servers)["serial"], last);
    // the vault is away until both have noticed
    servers.is_replaced_again();
    visitor.pause();
    stand.node.kill();
    for agent in [&servers, &clients] {
        until("it says that the vault is away", WITHIN, || agent.status()["state"] == json!("waiting"));
    }
    stand.node.start_again();
    visitor.go_on();
    stand.put("second-password");
    is_said(&stand, "second-password");
    servers.is_replaced(3);
    clients.is_replaced(3);
    until("the old certificate is refused", WITHIN, || stand.login("old.pem") != 200);
    stand.copy("client.pem", "new.pem");
    assert_eq!(stand.login("new.pem"), 200);
    stand.put("third-password");
    is_said(&stand, "third-password");
    for agent in [&servers, &clients] {
        until("all is well again", WITHIN, || agent.status()["state"] == json!("running"));
        assert_eq!(agent.status()["trouble"], Value::Null);
        assert!(!agent.log().contains("PRIVATE KEY"), "{}", agent.log());
    }
    assert!(clients.status()["logins"].as_u64().unwrap() > 3, "{}", clients.status());
    // by the certificate itself, and by a token that counts beside any
    assert_eq!(plugin.health().as_deref(), Ok("ok"));
    assert_eq!(application.reads(), ("third-password".to_owned(), 1));
    assert!(stand.says("heard").lines().count() > 3, "the program heard of each");
    for visitor in [visitor, onlooker] {
        let (visits, seen) = visitor.ended();
        assert!(visits > 100 && seen > 3, "{visits} visits, {seen} certificates");
    }
}
