//! Acknowledging: what must vouch for a request's records before it is answered, and waiting for that.
//!
//! Always: whoever waits has records that are durable already. What is waited for covers all that was durable by then.
//! Never: less than was asked for. Where no witness is configured, or one has seen more of this log than there is, the
//! request is refused.

use crate::log::Signed;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use tokio::sync::watch;

/// What has to stand before an answer leaves. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Ack {
    /// The record is durable: what every request waits for.
    #[default]
    Durable,
    /// A checkpoint that the boundary signed covers it.
    Checkpoint,
    /// A checkpoint that enough witnesses cosigned covers it.
    Witness,
}

impl Ack {
    /// What can be asked for.
    pub const STRICT: [Self; 2] = [Self::Checkpoint, Self::Witness];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Checkpoint => "checkpoint",
            Self::Witness => "witness",
        }
    }
}

/// Why a request that asks for more than a durable record is refused, whatever the time it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckRefusal {
    #[error("the policy demands that a witness cosigns the record, and this server has none configured")]
    NoWitness,
    #[error("a witness has seen more of the audit log than there is: the log was set back or forked")]
    SetBack,
}

impl AckRefusal {
    /// ErrorInfo's reason, of the closed list.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoWitness => "AUDIT_NO_WITNESS",
            Self::SetBack => "AUDIT_LOG_SET_BACK",
        }
    }
}

/// What can be had at a moment. Told by one atomic read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    UpTo(Ack),
    SetBack,
}

impl Offer {
    pub fn admits(self, ack: Ack) -> Result<(), AckRefusal> {
        match self {
            Self::UpTo(most) if ack <= most => Ok(()),
            Self::UpTo(_) => Err(AckRefusal::NoWitness),
            Self::SetBack if ack == Ack::Durable => Ok(()),
            Self::SetBack => Err(AckRefusal::SetBack),
        }
    }
}

/// Whether there is anybody who cosigns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witnesses {
    Configured,
    None,
}

/// How the log stands to its witnesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Witnessed {
    /// Of the newest checkpoint that enough of them cosigned.
    pub size: u64,
    /// One of them has seen what this log does not hold.
    pub set_back: bool,
}

/// Waits for what vouches for records. One a log.
#[derive(Debug)]
pub struct Acks {
    /// How many entries are durable.
    size: Arc<AtomicU64>,
    signed: watch::Receiver<Option<Signed>>,
    witnesses: Witnesses,
    witnessed: watch::Sender<Witnessed>,
    /// How far those who wait for witnesses need them to go.
    wanted: watch::Sender<u64>,
    offer: AtomicU8,
}

impl Acks {
    /// `size`: how many entries are durable; `signed`: the newest checkpoint.
    pub fn new(size: Arc<AtomicU64>, signed: watch::Receiver<Option<Signed>>, witnesses: Witnesses) -> Self {
        let (witnessed, wanted) = (watch::Sender::new(Witnessed::default()), watch::Sender::new(0));
        Self { size, signed, witnesses, witnessed, wanted, offer: AtomicU8::new(IN_ORDER) }
    }

    pub fn offer(&self) -> Offer {
        match (self.offer.load(Ordering::Relaxed), self.witnesses) {
            (IN_ORDER, Witnesses::Configured) => Offer::UpTo(Ack::Witness),
            (IN_ORDER, Witnesses::None) => Offer::UpTo(Ack::Checkpoint),
            (_, Witnesses::Configured | Witnesses::None) => Offer::SetBack,
        }
    }

    /// Resolves once `ack` stands for all that is durable now. For ever if need be: the caller has a deadline.
    pub async fn wait(&self, ack: Ack) -> Result<(), AckRefusal> {
        self.offer().admits(ack)?;
        let size = self.size.load(Ordering::Acquire);
        let set_back = until(self.witnessed.subscribe(), |witnessed| witnessed.set_back);
        let stands = async {
            match ack {
                Ack::Durable => {}
                Ack::Checkpoint => {
                    until(self.signed.clone(), |signed| signed.as_ref().is_some_and(|it| it.0.size >= size)).await;
                }
                Ack::Witness => {
                    self.wanted.send_if_modified(|wanted| size > std::mem::replace(wanted, size.max(*wanted)));
                    until(self.witnessed.subscribe(), |witnessed| witnessed.size >= size).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = set_back, if ack != Ack::Durable => Err(AckRefusal::SetBack),
            () = stands => Ok(()),
        }
    }

    /// From whoever asks the witnesses.
    pub fn witnessed(&self, now: Witnessed) {
        self.offer.store(if now.set_back { SET_BACK } else { IN_ORDER }, Ordering::Relaxed);
        self.witnessed.send_if_modified(|was| std::mem::replace(was, now) != now);
    }

    pub fn witnesses(&self) -> Witnesses {
        self.witnesses
    }

    pub fn standing(&self) -> Witnessed {
        *self.witnessed.borrow()
    }

    /// How far witnesses are waited for.
    pub fn wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }
}

/// Where nobody can tell any more, for ever.
async fn until<T>(mut told: watch::Receiver<T>, is_so: impl Fn(&T) -> bool) {
    let ended = told.wait_for(|now| is_so(now)).await.is_err();
    if ended {
        std::future::pending().await
    }
}

const IN_ORDER: u8 = 0;
const SET_BACK: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::note::{Note, VerifierKey};
    use std::time::Duration;
    use tokio::time::timeout;

    const MOMENT: Duration = Duration::from_millis(30);

    fn signed(size: u64) -> Option<Signed> {
        let checkpoint = Checkpoint { origin: "o".into(), size, root: [1; 32] };
        let key = VerifierKey::ed25519("o", [1; 32]).unwrap();
        let note = Note::new(checkpoint.body(), vec![key.line(vec![0; 64])]).unwrap();
        Some(Arc::new((checkpoint, note)))
    }

    fn acks(durable: u64, witnesses: Witnesses) -> (Arc<Acks>, watch::Sender<Option<Signed>>) {
        let (sign, signed) = watch::channel(None);
        (Arc::new(Acks::new(Arc::new(AtomicU64::new(durable)), signed, witnesses)), sign)
    }

    #[tokio::test]
    async fn whoever_waits_is_answered_once_what_was_durable_is_covered_and_not_before() {
        let (acks, sign) = acks(7, Witnesses::Configured);
        acks.wait(Ack::Durable).await.unwrap();
        let waits = |ack| {
            let acks = Arc::clone(&acks);
            tokio::spawn(async move { acks.wait(ack).await })
        };
        let (checkpoint, witness) = (waits(Ack::Checkpoint), waits(Ack::Witness));
        sign.send_replace(signed(6));
        acks.witnessed(Witnessed { size: 6, set_back: false });
        tokio::time::sleep(MOMENT).await;
        assert!(!checkpoint.is_finished() && !witness.is_finished());
        assert_eq!(*acks.wanted().borrow(), 7, "the witnesses are hurried");
        // what becomes durable later is nobody's who waits already
        acks.size.store(9, Ordering::Release);
        sign.send_replace(signed(7));
        assert_eq!(checkpoint.await.unwrap(), Ok(()));
        assert!(!witness.is_finished(), "signed is not witnessed");
        acks.witnessed(Witnessed { size: 7, set_back: false });
        assert_eq!(witness.await.unwrap(), Ok(()));
        assert!(timeout(MOMENT, acks.wait(Ack::Witness)).await.is_err(), "nobody has vouched for the newer ones");
        assert_eq!(*acks.wanted().borrow(), 9);
    }

    #[tokio::test]
    async fn a_log_that_was_set_back_is_not_acknowledged_before_it_agrees_again() {
        let (acks, sign) = acks(7, Witnesses::Configured);
        sign.send_replace(signed(6));
        let waiting = Ack::STRICT.map(|ack| {
            let acks = Arc::clone(&acks);
            tokio::spawn(async move { acks.wait(ack).await })
        });
        tokio::time::sleep(MOMENT).await;
        acks.witnessed(Witnessed { size: 7, set_back: true });
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Err(AckRefusal::SetBack), "though it is covered");
        }
        sign.send_replace(signed(7));
        for ack in Ack::STRICT {
            assert_eq!(acks.offer().admits(ack), Err(AckRefusal::SetBack));
            assert_eq!(acks.wait(ack).await, Err(AckRefusal::SetBack));
        }
        acks.wait(Ack::Durable).await.unwrap();
        acks.witnessed(Witnessed { size: 7, set_back: false });
        for ack in Ack::STRICT {
            acks.wait(ack).await.unwrap();
        }
    }

    #[tokio::test]
    async fn without_a_witness_what_wants_one_is_refused_and_never_weaker() {
        let (acks, sign) = acks(1, Witnesses::None);
        sign.send_replace(signed(1));
        assert_eq!(acks.wait(Ack::Witness).await, Err(AckRefusal::NoWitness));
        assert_eq!(acks.offer().admits(Ack::Witness), Err(AckRefusal::NoWitness));
        acks.wait(Ack::Checkpoint).await.unwrap();
        // the log has ended: nobody is told that it stands
        drop(sign);
        acks.size.store(2, Ordering::Release);
        assert!(timeout(MOMENT, acks.wait(Ack::Checkpoint)).await.is_err());
    }
}
