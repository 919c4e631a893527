//! The log's side: which checkpoint to show to which witness next, and what their answers mean. Pure: no clock, no network.
//!
//! All are asked for the same checkpoint, so that their cosignatures meet under one note. A newer one takes its place when
//! every witness that answers has cosigned it; one that does not answer holds up nobody.
//!
//! Always: one question at a time to each witness, and only about the newest checkpoint there was when it became free.
//! Never: a witness believed without its signature. That one has seen more than there is needs none: it stops strict calls.

use crate::ack::Witnessed;
use crate::checkpoint::Checkpoint;
use crate::log::Signed;
use crate::note::{Note, Signature, VerifierKey};
use crate::witness::cosignatures;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A question: that `checkpoint` extends the tree of `old` leaves.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Its place among the witnesses.
    pub witness: usize,
    pub old: u64,
    pub checkpoint: Signed,
}

/// What came of it (c2sp.org/tlog-witness, "add-checkpoint").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Status {
        status: u16,
        body: String,
    },
    /// No answer, or none that can be read.
    Failed(String),
}

/// How a witness stands to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It was not heard.
    Unknown,
    Agrees,
    /// The last question had no cosignature, and no earlier one was answered with what follows. Why.
    Away(String),
    /// It has cosigned so many entries, and the log has fewer.
    SetBack {
        size: u64,
    },
    /// It has cosigned another history.
    Forked,
}

impl Standing {
    /// It has seen more than there is, or another history.
    fn disagrees(&self) -> bool {
        matches!(self, Self::SetBack { size: _ } | Self::Forked)
    }
}

#[derive(Debug)]
pub struct Submitting {
    witnesses: Vec<One>,
    quorum: usize,
    target: Option<Target>,
    newest: Option<Signed>,
    witnessed: u64,
}

/// What all are asked for.
#[derive(Debug)]
struct Target {
    signed: Signed,
    since: Instant,
    /// When enough had cosigned it.
    enough: Option<Instant>,
}

#[derive(Debug)]
struct One {
    keys: Vec<VerifierKey>,
    standing: Standing,
    /// What it last cosigned, as far as is known.
    cosigned: u64,
    asked: bool,
    /// It has just told its size.
    corrected: bool,
    /// Its lines under the target.
    lines: Vec<Signature>,
    failed_at: Option<Instant>,
    backoff: Duration,
}

enum Judged {
    Cosigned(Vec<Signature>),
    /// It is asked again from there, at once.
    Stands(u64),
}

impl Submitting {
    /// Each witness with its keys, all of which must have signed; so many of them are enough.
    pub fn new(witnesses: Vec<Vec<VerifierKey>>, quorum: usize) -> Self {
        let one = |keys| One {
            keys,
            standing: Standing::Unknown,
            cosigned: 0,
            asked: false,
            corrected: false,
            lines: Vec::new(),
            failed_at: None,
            backoff: Duration::ZERO,
        };
        let witnesses = witnesses.into_iter().map(one).collect();
        Self { witnesses, quorum, target: None, newest: None, witnessed: 0 }
    }

    pub fn newest(&mut self, signed: Signed) {
        self.newest = Some(signed);
    }

    /// What to ask now. `wanted`: somebody waits until so many entries are witnessed.
    pub fn next(&mut self, now: Instant, wanted: u64) -> Vec<Ask> {
        if self.renewal(now, wanted).is_some_and(|at| at <= now)
            && let Some(signed) = self.newest.clone()
        {
            self.target = Some(Target { signed, since: now, enough: None });
            self.witnesses.iter_mut().for_each(|one| one.lines.clear());
        }
        let hurried = self.hurried(wanted);
        let Some(target) = &self.target else { return Vec::new() };
        let mut asks = Vec::new();
        for (witness, one) in self.witnesses.iter_mut().enumerate() {
            if one.due(target, hurried).is_some_and(|due| due <= now) {
                one.asked = true;
                asks.push(Ask { witness, old: one.cosigned, checkpoint: Arc::clone(&target.signed) });
            }
        }
        asks
    }

    /// When [`Self::next`] may have something, where nothing else happens before.
    pub fn due(&self, now: Instant, wanted: u64) -> Option<Instant> {
        let hurried = self.hurried(wanted);
        let asks =
            self.target.iter().flat_map(|target| self.witnesses.iter().filter_map(|one| one.due(target, hurried)));
        self.renewal(now, wanted).into_iter().chain(asks).min()
    }

    /// `size`: how many entries are durable. `jitter`: 0 to 255. The note, where it is cosigned by enough and was not yet by
    /// so many.
    pub fn answered(&mut self, ask: &Ask, reply: Reply, size: u64, (now, jitter): (Instant, u8)) -> Option<Note> {
        let one = self.witnesses.get_mut(ask.witness)?;
        one.asked = false;
        let lines = match one.judge(ask, reply, size) {
            Ok(Judged::Cosigned(lines)) => lines,
            Ok(Judged::Stands(seen)) => {
                (one.cosigned, one.corrected) = (seen, true);
                return None;
            }
            Err(standing) => {
                one.corrected = false;
                one.stands(standing);
                one.fail(now, jitter);
                return None;
            }
        };
        (one.standing, one.failed_at, one.backoff, one.corrected) = (Standing::Agrees, None, Duration::ZERO, false);
        one.cosigned = ask.checkpoint.0.size;
        let target = self.target.as_mut().filter(|target| target.signed.0 == ask.checkpoint.0)?;
        one.lines = lines;
        let cosigned = self.witnesses.iter().filter(|one| !one.lines.is_empty()).count();
        if cosigned < self.quorum {
            return None;
        }
        target.enough.get_or_insert(now);
        self.witnessed = self.witnessed.max(target.signed.0.size);
        let mut lines = self.witnesses.iter().flat_map(|one| &one.lines).cloned();
        lines.try_fold(target.signed.1.clone(), |note, line| note.signed(line).ok())
    }

    pub fn witnessed(&self) -> Witnessed {
        Witnessed { size: self.witnessed, set_back: self.witnesses.iter().any(|one| one.standing.disagrees()) }
    }

    pub fn standing(&self, witness: usize) -> &Standing {
        self.witnesses.get(witness).map_or(&Standing::Unknown, |one| &one.standing)
    }

    fn hurried(&self, wanted: u64) -> bool {
        wanted > self.witnessed
    }

    /// When the newest checkpoint takes the target's place. `None`: it is the target, or one is waited for that answers.
    fn renewal(&self, now: Instant, wanted: u64) -> Option<Instant> {
        let newest = self.newest.as_ref()?;
        let Some(target) = &self.target else { return Some(now) };
        if newest.0.size <= target.signed.0.size {
            return None;
        }
        let size = target.signed.0.size;
        let answers = |one: &One| one.standing == Standing::Agrees && one.lines.is_empty() && one.cosigned <= size;
        let waited = match (self.witnesses.iter().any(answers), target.enough) {
            (true, None) => return None,
            (true, Some(enough)) => enough + LAST_WAIT,
            (false, _) => target.since,
        };
        let paced = if self.hurried(wanted) && wanted > size { target.since } else { target.since + PACE };
        Some(waited.max(paced))
    }
}

impl One {
    /// When it may be asked for the target.
    fn due(&self, target: &Target, hurried: bool) -> Option<Instant> {
        // one that has seen more waits for a checkpoint as large
        if self.asked || !self.lines.is_empty() || self.cosigned > target.signed.0.size {
            return None;
        }
        let pause = if hurried { self.backoff.min(BACKOFF_HURRIED) } else { self.backoff };
        Some(self.failed_at.map_or(target.since, |failed| target.since.max(failed + pause)))
    }

    /// Its lines over the checkpoint; or how it stands now.
    fn judge(&self, ask: &Ask, reply: Reply, size: u64) -> Result<Judged, Standing> {
        let (status, body) = match reply {
            Reply::Status { status, body } => (status, body),
            Reply::Failed(why) => return Err(Standing::Away(why)),
        };
        match status {
            200 => {
                let note = &ask.checkpoint.1;
                let lines = cosignatures(note, &body, &self.keys);
                let lines = lines.map_err(|_| Standing::Away("its cosignature was rejected".to_owned()))?;
                if self.keys.iter().all(|key| lines.iter().any(|line| line.is_of(key))) {
                    Ok(Judged::Cosigned(lines))
                } else {
                    Err(Standing::Away("it did not cosign with the configured key".to_owned()))
                }
            }
            409 => match body.strip_suffix('\n').and_then(crate::checkpoint::decimal) {
                None => Err(Standing::Away("it answered a conflict without its size".to_owned())),
                Some(seen) if seen > size => Err(Standing::SetBack { size: seen }),
                Some(seen) if seen == ask.old || self.corrected => {
                    Err(Standing::Away("it contradicts itself about its size".to_owned()))
                }
                Some(seen) => Ok(Judged::Stands(seen)),
            },
            422 => Err(Standing::Forked),
            status => Err(Standing::Away(format!("it answered {status}"))),
        }
    }

    /// Silence takes nothing back: who disagreed does so until it agrees.
    fn stands(&mut self, now: Standing) {
        let away = matches!(now, Standing::Away(_));
        if !(away && self.standing.disagrees()) {
            self.standing = now;
        }
    }

    fn fail(&mut self, now: Instant, jitter: u8) {
        let doubled = (self.backoff * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
        // between three quarters and the whole: several servers do not come together
        self.backoff = doubled - doubled / 4 * u32::from(jitter) / 255;
        self.failed_at = Some(now);
    }
}

/// That `witness`, by all its keys, cosigned the note; when, in seconds since 1970.
pub fn cosigned_at(note: &Note, witness: &[VerifierKey]) -> Option<u64> {
    let times: Option<Vec<u64>> = witness.iter().map(|key| note.cosigned_at(key).ok()).collect();
    times?.into_iter().min()
}

/// Whose checkpoint a note is, where the log of `key` signed it.
pub fn opened(note: &[u8], key: &VerifierKey) -> Option<(Checkpoint, Note)> {
    let note = Note::parse(note).ok()?;
    Checkpoint::open(&note, key).ok().map(|checkpoint| (checkpoint, note))
}

/// From one target to the next while nobody waits.
const PACE: Duration = Duration::from_secs(1);
/// How long one that answers is waited for once enough have cosigned.
const LAST_WAIT: Duration = Duration::from_millis(250);
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// While somebody waits.
const BACKOFF_HURRIED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
