//! Users of a database that are lent, told to somebody who sees it for the first time.
//!
//! Always: what should be refused is refused here too, or the demo fails.

use super::database::Database;
use super::{Stage, say, step};
use crate::dev::{Ask, Dev, Hsm};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs it in `dir`, which must not hold one already.
pub async fn run(dir: &Path) -> Result<()> {
    crate::files::private_folder(dir)?;
    let dir = dir.canonicalize()?;
    say("An application needs a user of a database. Usually it has one password for years, in a file. Here it");
    say("asks for a user when it starts, gets one of its own for an hour, and nothing of it is left afterwards.\n");
    step(1, "Start a PostgreSQL that is thrown away, and Strongroom beside it.");
    let database = Database::start(&dir).await?;
    let ask = Ask {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: dir.join("data"),
        root_token: None,
        hsm: Hsm::Sim,
        tls: true,
        client_ca: None,
        any_client_certificate: false,
        log: Some("error"),
    };
    let dev = match ask.start().await {
        Ok(dev) => dev,
        Err(error) => {
            database.end().await;
            return Err(error);
        }
    };
    say(&format!("   PostgreSQL at 127.0.0.1:{}, Strongroom at https://{}\n", database.port, dev.addr));
    let stage = Stage { original: PathBuf::new(), dir };
    let outcome = act(&stage, &dev, &database).await;
    dev.end().await;
    database.end().await;
    outcome?;
    say("The same for your application without a line of code:  strongroom agent --help");
    Ok(())
}

struct User {
    name: String,
    password: String,
    lease: String,
}

async fn act(stage: &Stage, dev: &Dev, database: &Database) -> Result<()> {
    prepare(stage, dev, database).await?;
    let user = lend(stage, dev).await?;

    step(5, "The application logs in and works. A session of it stays open.");
    let rows = database.ask(&user.name, &user.password, "SELECT customer || ' owes ' || amount FROM orders").await?;
    rows.lines().for_each(|row| say(&format!("   {row}")));
    let mut session = database.session(&user.name, &user.password).await?;
    say("");

    step(6, "What is lent has a lease. It is looked up, and renewed while the application runs.");
    stage.command(dev, &["lease", "lookup", &user.lease]).await?;
    stage.command(dev, &["lease", "renew", &user.lease]).await?;
    say("");

    step(7, "Take it back: the open session is closed, the login refused, the user dropped.");
    stage.command(dev, &["lease", "revoke", &user.lease]).await?;
    let closed = tokio::time::timeout(Duration::from_secs(20), session.wait()).await;
    ensure!(closed.is_ok_and(|status| status.is_ok_and(|status| !status.success())), "the session was not closed");
    say("   the session was closed");
    let refused = database.ask(&user.name, &user.password, "SELECT 1").await;
    let refused = refused.err().context("the user could still log in")?;
    say(&format!("   refused: {refused}"));
    let left = database.admin(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}'", user.name)).await?;
    say(&format!("   users of that name in the database: {left}\n"));

    step(8, "All of it stands in the audit log: who asked, and what became of the lease.");
    stage.tell_audit(dev, 6, |path| path == "database/creds/app" || path == user.lease)?;

    step(9, "Anybody can check that log.");
    stage.command(dev, &["audit", "verify", "--dir", "data/server/audit"]).await?;
    say("");
    Ok(())
}

async fn prepare(stage: &Stage, dev: &Dev, database: &Database) -> Result<()> {
    step(2, "In the database: a table, a group that may read it, and an account that may make users.");
    for statement in [
        "CREATE TABLE orders (customer text, amount int); INSERT INTO orders VALUES ('Ada', 7), ('Grace', 11)",
        "CREATE ROLE readers NOLOGIN; GRANT SELECT ON orders TO readers",
    ] {
        say(&format!("   sql> {statement}"));
        database.admin(statement).await?;
    }
    say("");

    step(3, "In Strongroom: where that database is, and a role that says what users of it are like.");
    stage.command(dev, &["write", "sys/mounts/database", "type=database"]).await?;
    let url = format!(
        "connection_url=postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=disable",
        database.port
    );
    let name = database.password_file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
    let password = format!("password=@{name}");
    let config = ["write", "database/config/shop", "plugin_name=postgresql-database-plugin", &url, "username=admin"];
    stage.command(dev, &[&config[..], &[&password, "allowed_roles=app"]].concat()).await?;
    let role = ["write", "database/roles/app", "db_name=shop", "groups=[\"readers\"]", "default_ttl=1h", "max_ttl=2h"];
    stage.command(dev, &role).await?;
    say("");
    Ok(())
}

async fn lend(stage: &Stage, dev: &Dev) -> Result<User> {
    step(4, "Ask for a user. It is made at this moment, for the asker alone.");
    let asked = stage.child(dev, &["read", "database/creds/app", "--output", "json"]).await?;
    ensure!(asked.status.success(), "no user was made: {}", String::from_utf8_lossy(&asked.stderr).trim());
    let made: Value = serde_json::from_slice(&asked.stdout).context("the answer is not JSON")?;
    let text = |name: &str| made.get(name).and_then(Value::as_str).map(str::to_owned);
    let name = text("username").context("the answer names no user")?;
    let password = text("password").context("the answer has no password")?;
    say(&format!("   username  {name}"));
    let lease = text("lease_id").context("the answer tells no lease")?;
    say(&format!("   password  ({} characters, shown to the asker and kept nowhere)", password.len()));
    say(&format!("   lease_id  {lease}\n"));
    Ok(User { name, password, lease })
}
