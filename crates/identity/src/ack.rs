//! What the decisions of one request demand of the audit log before it is answered.

use audit::{Ack, AckRefusal, Offer};
use std::sync::atomic::{AtomicU8, Ordering};

/// The strictest that was demanded so far, and what can be had.
#[derive(Debug)]
pub struct AckDemand {
    demanded: AtomicU8,
    offer: Offer,
}

impl AckDemand {
    /// `offer`: as the request begins.
    pub fn beside(offer: Offer) -> Self {
        Self { demanded: AtomicU8::new(0), offer }
    }

    /// Never less than before.
    pub(crate) fn raise(&self, ack: Ack) -> Result<(), AckRefusal> {
        if ack == Ack::Durable {
            return Ok(());
        }
        self.offer.admits(ack)?;
        self.demanded.fetch_max(ack as u8, Ordering::Relaxed);
        Ok(())
    }

    /// What the answer waits for.
    pub fn demanded(&self) -> Ack {
        let demanded = self.demanded.load(Ordering::Relaxed);
        Ack::STRICT.into_iter().find(|ack| *ack as u8 == demanded).unwrap_or_default()
    }
}

/// Without witnesses.
impl Default for AckDemand {
    fn default() -> Self {
        Self::beside(Offer::UpTo(Ack::Checkpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_demand_stands_and_what_cannot_be_had_is_refused() {
        let demand = AckDemand::beside(Offer::UpTo(Ack::Witness));
        assert_eq!(demand.demanded(), Ack::Durable);
        for (raised, stands) in [
            (Ack::Durable, Ack::Durable),
            (Ack::Checkpoint, Ack::Checkpoint),
            (Ack::Witness, Ack::Witness),
            (Ack::Checkpoint, Ack::Witness),
            (Ack::Durable, Ack::Witness),
        ] {
            demand.raise(raised).unwrap();
            assert_eq!(demand.demanded(), stands);
        }
        let demand = AckDemand::default();
        assert_eq!(demand.raise(Ack::Witness), Err(AckRefusal::NoWitness));
        let demand = AckDemand::beside(Offer::SetBack);
        assert_eq!(demand.raise(Ack::Checkpoint), Err(AckRefusal::SetBack));
        assert_eq!(demand.raise(Ack::Durable), Ok(()));
    }
}
