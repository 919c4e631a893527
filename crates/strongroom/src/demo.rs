//! The main job, end to end, told to somebody who sees it for the first time. Every step is a command that they can type.
//!
//! Always: what should be refused is refused here too, or the demo fails.

mod database;
pub mod postgres;

use crate::dev::{Ask, Dev, Hsm};
use anyhow::{Context as _, Result, bail, ensure};
use audit::read::{LogFolder, LogReader};
use audit::record::Entry;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokio::process::Command;

/// Runs it in `dir`, which must not hold one already, with `file` or a letter of our own.
pub async fn run(dir: &Path, file: Option<&Path>) -> Result<()> {
    crate::files::private_folder(dir)?;
    let dir = dir.canonicalize()?;
    let stage = Stage { original: letter(&dir, file)?, dir };
    say("Strongroom keeps master keys behind a boundary that they never leave. A file is encrypted under a fresh");
    say("data key; the data key is sealed by a master key inside the boundary, and travels with the file.\n");

    step(1, "Start the boundary (a process of its own) and the server, on a fresh data directory.");
    let ask = Ask {
        listen: ([127, 0, 0, 1], 0).into(),
        data_dir: stage.dir.join("data"),
        root_token: None,
        hsm: Hsm::Sim,
        tls: true,
        client_ca: None,
        any_client_certificate: false,
        log: Some("error"),
    };
    let dev = ask.start().await?;
    say(&format!("   boundary and server serve at https://{}\n", dev.addr));
    let outcome = stage.act(&dev).await;
    dev.end().await;
    outcome?;
    say(&format!("Everything stands in {}: the letter, its encrypted form, keys, audit log.", stage.dir.display()));
    say("Go on by yourself:  strongroom dev    and in another terminal    strongroom kms --help");
    Ok(())
}

struct Stage {
    dir: PathBuf,
    original: PathBuf,
}

impl Stage {
    async fn act(&self, dev: &Dev) -> Result<()> {
        let key_id = self.make_key(dev).await?;
        self.encrypt(dev).await?;

        step(4, "Decrypt it. The server asks the boundary to open the data key; the file is opened here.");
        self.decrypt(dev, "letter.sr", "opened-1").await?;

        step(5, "Rotate the master key. What the old version sealed stays readable, without touching the file.");
        self.command(dev, &["kms", "rotate-key", "--key-id", "alias/demo"]).await?;
        self.decrypt(dev, "letter.sr", "opened-2").await?;

        step(6, "A wrong encryption context is refused, and nothing of the file is left behind.");
        self.refused(dev, "letter.sr", "purpose=party").await?;

        step(7, "One flipped bit is refused, wherever it is: here in the middle of the file.");
        let mut bytes = std::fs::read(self.dir.join("letter.sr"))?;
        let middle = bytes.len() / 2;
        *bytes.get_mut(middle).context("an empty file")? ^= 1;
        std::fs::write(self.dir.join("letter.altered.sr"), bytes)?;
        self.refused(dev, "letter.altered.sr", "purpose=demo").await?;

        step(
            8,
            "Each of these acts stands in the audit log, durable before its answer left. The last ones on this key:",
        );
        self.tell_audit(dev, 4, |path| path.contains(&key_id))?;

        step(
            9,
            "Anybody can check that log, from its files and its public key: not a bit of it can be changed or taken out.",
        );
        self.command(dev, &["audit", "verify", "--dir", "data/server/audit"]).await?;
        say("");
        Ok(())
    }

    async fn make_key(&self, dev: &Dev) -> Result<String> {
        step(2, "Make a master key. It is generated inside the boundary and stored wrapped.");
        let made = self.command(dev, &["kms", "create-key", "--description", "demo"]).await?;
        let made = String::from_utf8_lossy(&made.stdout);
        let key_id = made.lines().find_map(|line| line.strip_prefix("key_id ")).context("create-key told no key id")?;
        let key_id = key_id.trim().to_owned();
        let alias = ["kms", "create-alias", "--alias-name", "alias/demo", "--target-key-id", &key_id];
        self.command(dev, &alias).await?;
        Ok(key_id)
    }

    async fn encrypt(&self, dev: &Dev) -> Result<()> {
        step(3, "Encrypt a file. Its data key comes in the clear for this moment, and sealed to be kept in the file.");
        let sealed = self.dir.join("letter.sr");
        let from = self.original.strip_prefix(&self.dir).unwrap_or(&self.original).display().to_string();
        let context = ["--context", "purpose=demo"];
        let command =
            ["kms", "encrypt-file", "--key-id", "alias/demo", context[0], context[1], &from, "--out", "letter.sr"];
        self.command(dev, &command).await?;
        let (plain, whole) = (std::fs::read(&self.original)?, std::fs::read(&sealed)?);
        ensure!(plain.len() < 16 || !whole.windows(16).any(|part| part == &plain[..16]), "the file is not encrypted");
        say(&format!("   {} bytes became {}; the first of them: {:02x?} …\n", plain.len(), whole.len(), &whole[..16]));
        Ok(())
    }

    async fn decrypt(&self, dev: &Dev, sealed: &str, name: &str) -> Result<()> {
        let opened = self.dir.join(name);
        let command = ["kms", "decrypt-file", "--context", "purpose=demo", sealed, "--out", name];
        self.command(dev, &command).await?;
        ensure!(std::fs::read(&self.original)? == std::fs::read(&opened)?, "the file did not come back as it was");
        say("   the file is back, byte for byte\n");
        Ok(())
    }

    async fn refused(&self, dev: &Dev, sealed: &str, context: &str) -> Result<()> {
        let opened = self.dir.join("must-not-be-there");
        let command = ["kms", "decrypt-file", "--context", context, sealed, "--out", "must-not-be-there"];
        let output = self.child(dev, &command).await?;
        ensure!(output.status.code() == Some(1), "`{}` was not refused", command.join(" "));
        ensure!(!opened.exists(), "a refused file was left behind");
        say(&format!("   refused: {}\n", String::from_utf8_lossy(&output.stderr).trim()));
        Ok(())
    }

    fn tell_audit(&self, dev: &Dev, last: usize, concerns: impl Fn(&str) -> bool) -> Result<()> {
        let log = LogReader::over(LogFolder::open(&dev.folders.audit_log())?);
        let (mut entries, mut lines) = (log.iter_from(0)?, Vec::new());
        while let Some((_, entry)) = entries.read()? {
            let entry = Entry::decode(entry)?;
            if concerns(entry.record().path) {
                lines.push(serde_json::to_value(entry.record())?);
            }
        }
        ensure!(!lines.is_empty(), "the audit log tells nothing of it");
        for record in lines.iter().rev().take(last).rev() {
            let field = |name| record.get(name).map(ToString::to_string).unwrap_or_default();
            say(&format!("   {} {} {} {}", field("time"), field("operation"), field("decision"), field("outcome")));
        }
        say("");
        Ok(())
    }

    /// A command that must succeed.
    async fn command(&self, dev: &Dev, arguments: &[&str]) -> Result<Output> {
        let output = self.child(dev, arguments).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().for_each(|line| say(&format!("   {line}")));
        if !output.status.success() {
            bail!("`strongroom {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output)
    }

    /// Our own program, as a person would start it.
    async fn child(&self, dev: &Dev, arguments: &[&str]) -> Result<Output> {
        say(&format!("   $ strongroom {}", arguments.join(" ")));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(arguments)
            .current_dir(&self.dir)
            .env("STRONGROOM_ADDR", format!("https://{}", dev.addr))
            .env("STRONGROOM_CACERT", dev.folders.ca())
            .env_remove("STRONGROOM_TOKEN")
            .stdin(Stdio::null());
        // the log is read from its files: no token helps or is needed
        if arguments.first() != Some(&"audit") {
            command.arg("--token-file").arg(dev.folders.root_token());
        }
        Ok(command.output().await?)
    }
}

fn letter(dir: &Path, file: Option<&Path>) -> Result<PathBuf> {
    if let Some(file) = file {
        return file.canonicalize().with_context(|| format!("cannot open {}", file.display()));
    }
    let path = dir.join("letter.txt");
    let line = "Dear auditor, the master key never left its boundary. Check it.\n";
    std::fs::write(&path, line.repeat(2000))?;
    Ok(path)
}

fn step(number: u32, text: &str) {
    say(&format!("{number}. {text}"));
}

#[expect(clippy::print_stdout, reason = "the demo talks to a person")]
fn say(line: &str) {
    println!("{line}");
}
