//! `strongroom audit keygen`.

use crate::cli::new_file::{NewFile, Replace};
use crate::cli::output::{Answer, Record};
use anyhow::{Context as _, Result};
use audit::record::AuditorSecret;
use clap::Args;
use std::io::Write as _;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Make an auditor's key, for the names and addresses in the log
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom audit keygen --out auditor.key                # on the auditor's machine; the public key goes to the server
  strongroom audit search --dir audit --personal-key auditor.key --subject alice

With `audit.auditor_key` in its configuration, the server seals names and addresses under a key a month, and that key to the
auditor. Removing a month's file from the log's folder `personal` shreds them; the log still verifies.")]
pub struct Keygen {
    /// New file for the private key
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Keygen {
    pub fn run(self) -> Result<Answer> {
        let file = NewFile::create(&self.out, Replace::Never)?;
        let secret = AuditorSecret::generate()?;
        let public = secret.public()?;
        // of one length: a string that grows leaves a copy behind
        let mut text = Zeroizing::new([b'\n'; 65]);
        hex::encode_to_slice(secret.expose(), &mut text[..64])?;
        let written = file.std_writer()?.write_all(&*text);
        written.with_context(|| format!("cannot write {}", self.out.display()))?;
        file.finish(0o600)?;
        let record = Record::new().with("out", self.out.display().to_string());
        Ok(Answer::Record(record.with("public_key", hex::encode(public.as_bytes()))))
    }
}
