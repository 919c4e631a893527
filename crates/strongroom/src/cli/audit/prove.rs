//! `strongroom audit prove`.

use super::{Key, Place};
use crate::cli::new_file::{Out, Prepared, Privacy};
use crate::cli::output::{Answer, Record};
use anyhow::{Context as _, Result};
use audit::checkpoint::Checkpoint;
use audit::note::{Note, VerifierKey};
use audit::proof::Proof;
use audit::read::{LogFolder, LogReader, LogSource as _};
use audit::tile;
use clap::Args;
use client::SecretBytes;
use envelope::merkle::leaf_hash;
use std::time::Duration;

/// Prove that an entry is in the log, for somebody who does not have the log
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom audit prove 1234 --data-dir /var/lib/strongroom --key log.vkey --out entry.proof
  strongroom audit verify --key log.vkey --receipt entry.proof

The proof is a C2SP tlog-proof: the entry's hash, its way to the tree's root, and the signed checkpoint. It holds nothing of what
the entry says.")]
pub struct Prove {
    /// Number of the entry, the first is 0
    #[arg(value_name = "INDEX")]
    index: u64,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    out: Out,
}

impl Prove {
    pub fn run(self) -> Result<Answer> {
        let log = self.place.log()?;
        let key = self.key.read(Some(log.source().dir()))?;
        let prepared = self.out.prepare()?;
        let (proof, checkpoint) = prove(&log, &key, self.index)?;
        let text = proof.encode();
        let record = Record::new().with("index", self.index).with("signed", checkpoint.size);
        match prepared {
            Prepared::Shown => Ok(Answer::Text { record: record.with("proof", text.as_str()), text }),
            elsewhere @ (Prepared::Dash | Prepared::File(..)) => {
                elsewhere.answer(record, "proof", SecretBytes::copy_from(text.as_bytes()), Privacy::Public)
            }
        }
    }
}

/// Beside a writer, the tiles of a checkpoint may be replaced by those of the next: then that one is taken.
fn prove(log: &LogReader<LogFolder>, key: &VerifierKey, index: u64) -> Result<(Proof, Checkpoint)> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        match attempt(log, key, index) {
            Err(_) if attempts > 0 => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

fn attempt(log: &LogReader<LogFolder>, key: &VerifierKey, index: u64) -> Result<(Proof, Checkpoint)> {
    let note = log.source().checkpoint()?.context("nothing was signed yet: there is no checkpoint")?;
    let note = Note::parse(&note)?;
    let checkpoint = Checkpoint::open(&note, key).context("the log's checkpoint proves nothing")?;
    let signed = checkpoint.size;
    anyhow::ensure!(index < signed, "entry {index} is not signed yet, or there is none: {signed} are");
    let leaf = if index < log.first()? {
        // the entry was removed, its hash was not
        tile::leaf(log.source(), index, signed).context("the tree cannot be read: run `audit verify`")?
    } else {
        let entry = log.entry(index)?.with_context(|| format!("entry {index} is missing: run `audit verify`"))?;
        leaf_hash(&entry)
    };
    let proof =
        Proof::prove(log.source(), index, signed, note).context("the tree cannot be read: run `audit verify`")?;
    // what we hand out, we would believe
    let checked = proof.verify(key, &leaf);
    checked.context("entry, tiles and checkpoint do not fit together: run `audit verify`")?;
    Ok((proof, checkpoint))
}

const ATTEMPTS: u32 = 5;
/// A few of them are one checkpoint's.
const PAUSE: Duration = Duration::from_millis(50);
