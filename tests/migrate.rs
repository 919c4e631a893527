//! A store moved between engines and back: the same keys, tokens and secrets are there, and the audit log goes on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use proto::kms::{CreateKeyRequest, DecryptRequest, GenerateDataKeyRequest, GenerateDataKeyResponse};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::boundary::{Kind, Stand};
use tests::postgres::Server;
use tests::{Node, bearer, binary, until};
use tokio::runtime::Runtime;

const SQLITE: &str = "[storage]\nengine = \"sqlite\"\n";

fn postgres(database: &Server, schema: &str) -> String {
    format!(
        "[storage]\nengine = \"postgres\"\nurl = \"{}\"\npassword_file = \"{}\"\nschema = \"{schema}\"\n",
        database.tcp_url(),
        database.password_file().display()
    )
}

/// The exit code, and what it said.
fn migrate(from: &Path, to: &Path) -> (i32, String) {
    let mut command = Command::new(binary("strongroom"));
    command.args(["operator", "migrate", "--output", "json", "--from"]).arg(from).arg("--to").arg(to);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.code().unwrap(), said)
}

/// The node's configuration with another store, under another name.
fn config(node: &mut Node, name: &str, storage: &str) -> std::path::PathBuf {
    node.set_storage(storage);
    let file = node.folder().join(name);
    std::fs::copy(node.config(), &file).unwrap();
    file
}

async fn data_key(node: &Node, root: &str, key: &str) -> GenerateDataKeyResponse {
    let message = GenerateDataKeyRequest { key_id: key.into(), number_of_bytes: Some(32), ..Default::default() };
    node.clients().crypto.generate_data_key(bearer(root, message)).await.unwrap().into_inner()
}

async fn opens(node: &Node, root: &str, made: &GenerateDataKeyResponse) {
    let message = DecryptRequest { ciphertext_blob: made.ciphertext_blob.clone(), ..Default::default() };
    let opened = node.clients().crypto.decrypt(bearer(root, message)).await.unwrap().into_inner();
    assert_eq!(opened.plaintext, made.plaintext);
}

#[test]
fn a_store_goes_to_another_engine_and_back_and_everything_is_there() {
    let (database, stand, runtime) = (Server::start(), Stand::operational(Kind::Sim), Runtime::new().unwrap());
    let mut node = Node::prepare("a", &stand, SQLITE);
    let embedded = config(&mut node, "embedded.toml", SQLITE);
    let shared = config(&mut node, "shared.toml", &postgres(&database, "moved"));
    node.set_storage(SQLITE);
    node.start_again();
    let root = node.root_token().unwrap();
    let (key, made) = runtime.block_on(async {
        let request = bearer(&root, CreateKeyRequest::default());
        let key = node.clients().keys.create_key(request).await.unwrap().into_inner().key_metadata.unwrap().key_id;
        let made = data_key(&node, &root, &key).await;
        (key, made)
    });
    // never under a server
    let (code, said) = migrate(&embedded, &shared);
    assert_eq!((code, said.contains("stop it first")), (1, true), "{said}");
    node.stop();
    let (code, said) = migrate(&embedded, &shared);
    assert_eq!(code, 0, "{said}");
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    let rows = database
        .psql("SELECT count(*), (SELECT rev FROM moved.head), max(rev) <= (SELECT rev FROM moved.head) FROM moved.kv");
    assert_eq!(rows, format!("{}|{}|t", told["entries"], told["revision"]));
    // nothing is replaced
    let (code, said) = migrate(&embedded, &shared);
    assert_eq!((code, said.contains("nothing is replaced")), (1, true), "{said}");

    node.set_storage(&postgres(&database, "moved"));
    node.start_again();
    let second = runtime.block_on(async {
        opens(&node, &root, &made).await;
        data_key(&node, &root, &key).await
    });
    let (code, said) = migrate(&shared, &embedded);
    assert_eq!((code, said.contains("stop it first")), (1, true), "{said}");
    node.stop();

    // back: the old file is in the way first
    let (code, said) = migrate(&shared, &embedded);
    assert_eq!((code, said.contains("nothing is replaced")), (1, true), "{said}");
    std::fs::rename(node.data().join("store.db"), node.folder().join("old.db")).unwrap();
    let (code, said) = migrate(&shared, &embedded);
    assert_eq!(code, 0, "{said}");
    let left: Vec<_> = std::fs::read_dir(node.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("progress")), "{left:?}");
    node.set_storage(SQLITE);
    node.start_again();
    runtime.block_on(async {
        opens(&node, &root, &made).await;
        opens(&node, &root, &second).await;
    });
    // one log over all three, whose rows are the store's
    node.stop();
    let mut verify = Command::new(binary("strongroom"));
    verify.args(["audit", "verify", "--data-dir"]).arg(node.data()).arg("--store").arg(node.data().join("store.db"));
    let verified = verify.output().unwrap();
    let said = String::from_utf8_lossy(&verified.stdout).into_owned() + &String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
}

#[test]
fn a_migration_that_is_killed_leaves_a_target_that_is_no_store_and_can_be_run_again() {
    const ROWS: u32 = 300_000;
    let (database, stand) = (Server::start(), Stand::operational(Kind::Sim));
    let mut node = Node::prepare("a", &stand, SQLITE);
    let embedded = config(&mut node, "embedded.toml", SQLITE);
    let shared = config(&mut node, "shared.toml", &postgres(&database, "killed"));
    let third = config(&mut node, "third.toml", &postgres(&database, "third"));
    node.set_storage(SQLITE);
    node.start_again();
    node.stop();
    // so many that it takes a while
    let mut file = rusqlite::Connection::open(node.data().join("store.db")).unwrap();
    let all = file.transaction().unwrap();
    let mut insert = all.prepare("INSERT INTO kv VALUES(?1, 1, ?2)").unwrap();
    for number in 0..ROWS {
        let path = format!("t/bulk/{number:08}");
        insert.execute(rusqlite::params![path.as_bytes(), [7_u8; 500]]).unwrap();
    }
    drop(insert);
    all.commit().unwrap();
    drop(file);
    let begun = |from: &Path, to: &Path| {
        let mut command = Command::new(binary("strongroom"));
        command.args(["operator", "migrate", "--from"]).arg(from).arg("--to").arg(to);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let end = |mut child: std::process::Child| {
        child.kill().unwrap();
        child.wait().unwrap().code().is_none()
    };
    let written =
        || database.psql("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')").parse::<f64>().unwrap();
    // all rows are some 200 million bytes of the database's log
    let kill_at = |from: &Path, to: &Path, bytes: f64| {
        let (child, before) = (begun(from, to), written());
        until("so much is written", Duration::from_secs(60), || written() - before > bytes);
        end(child)
    };
    let is_there = |schema: &str| database.psql(&format!("SELECT to_regclass('{schema}.kv') IS NOT NULL")) == "t";
    let (mut killed, mut seen) = (0, false);
    for bytes in [1e4, 1e6, 20e6, 40e6, 60e6] {
        if !kill_at(&embedded, &shared, bytes) {
            // done before anybody looked: the next one finds nothing there
            database.psql("DROP SCHEMA killed CASCADE");
            continue;
        }
        killed += 1;
        if is_there("killed") {
            let rows = database.psql("SELECT (SELECT count(*) FROM killed.kv), (SELECT rev FROM killed.head)");
            assert_eq!(rows, "0|0", "after {bytes} bytes");
            seen = true;
        }
    }
    assert!(killed >= 3 && seen, "{killed} were killed on the way, tables were there: {seen}");
    // a server takes it for no store of this boundary
    node.set_storage(&postgres(&database, "killed"));
    node.spawn();
    let log = node.wait_ready().unwrap_err();
    assert!(log.contains("the store is empty, but the boundary is bound to cluster"), "{log}");
    let (code, said) = migrate(&embedded, &shared);
    assert_eq!(code, 0, "{said}");
    // from database to database; what a killed one left of its copy is found
    for bytes in [1e4, 20e6] {
        assert!(kill_at(&shared, &third, bytes), "it was done before it was killed at {bytes} bytes");
    }
    let (code, said) = migrate(&shared, &third);
    assert_eq!(code, 0, "{said}");
    let differ = "SELECT count(*) FROM killed.kv a FULL JOIN third.kv b USING (k) WHERE a.v IS DISTINCT FROM b.v OR a.rev <> b.rev";
    assert_eq!(database.psql(differ), "0");
    let left: Vec<_> = std::fs::read_dir(node.data()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("progress")), "{left:?}");
    node.set_storage(&postgres(&database, "third"));
    node.start_again();
}
