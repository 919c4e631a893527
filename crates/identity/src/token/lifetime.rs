//! How long a token lives, and how long renewing lets it go on. Pure.
//!
//! Never: beyond its parent, or beyond the end that it was made with.

use super::Excess;
use super::{SYSTEM_TTL_MAX, TTL_DEFAULT, TTL_MAX, Terms};
use crate::error::IdentityError;
use envelope::Timestamp;
use std::time::Duration;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) ttl: Option<Duration>,
    pub(crate) explicit_max: Option<Duration>,
    pub(crate) period: Option<Duration>,
}

/// What is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) expires: Timestamp,
    pub(crate) explicit_max: Option<Timestamp>,
    pub(crate) period: Option<Duration>,
}

/// When a new token ends.
pub(crate) fn begin(
    now: Timestamp,
    asked: Asked,
    parent: Option<Timestamp>,
    excess: Excess,
) -> Result<Life, IdentityError> {
    let longest = match excess {
        Excess::Refuse => TTL_MAX,
        Excess::Cap => SYSTEM_TTL_MAX,
    };
    let bounds = [Some(longest), parent.map(|end| end.since(now)), asked.explicit_max];
    let left = bounds.into_iter().flatten().min().unwrap_or(longest);
    let wanted = asked.period.or(asked.ttl);
    let ttl = match (wanted, excess) {
        (None, _) => TTL_DEFAULT.min(left),
        (Some(ttl), _) if ttl <= left => ttl,
        (Some(_), Excess::Cap) => left,
        (Some(_), Excess::Refuse) => return Err(IdentityError::InvalidField("ttl_secs")),
    };
    Ok(Life {
        expires: now.plus(ttl),
        explicit_max: asked.explicit_max.map(|max| now.plus(max.min(longest))),
        period: asked.period.map(|period| period.min(longest)),
    })
}

/// When a token that is alive ends once it is renewed; `parents` is when the first of its ancestors does. `None`: it has no end.
pub(crate) fn renewed(
    terms: &Terms,
    created: Timestamp,
    increment: Option<Duration>,
    parents: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let creation_ttl = terms.creation_ttl?;
    let (step, system_max) = match terms.period {
        Some(period) => (period, None),
        None => (increment.unwrap_or(creation_ttl), Some(created.plus(SYSTEM_TTL_MAX.max(creation_ttl)))),
    };
    [Some(now.plus(step)), terms.explicit_max, system_max, parents].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_millis(secs * 1000)
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_token_ends_no_later_than_its_parent() {
        let now = at(1000);
        let beyond = TTL_MAX + secs(1);
        let explicit = Some(secs(100));
        for (ttl, explicit_max, parent, refuse, cap) in [
            (None, None, None, Some(4600), 4600),
            (None, None, Some(at(2000)), Some(2000), 2000),
            (Some(secs(1000)), None, Some(at(2000)), Some(2000), 2000),
            (Some(secs(1001)), None, Some(at(2000)), None, 2000),
            (Some(secs(1)), None, Some(now), None, 1000),
            (Some(TTL_MAX), None, None, Some(1000 + TTL_MAX.as_secs()), 1000 + SYSTEM_TTL_MAX.as_secs()),
            (Some(beyond), None, None, None, 1000 + SYSTEM_TTL_MAX.as_secs()),
            (Some(secs(u64::MAX)), None, None, None, 1000 + SYSTEM_TTL_MAX.as_secs()),
            (
                Some(secs(u64::MAX)),
                None,
                Some(Timestamp::from_unix_millis(u64::MAX)),
                None,
                1000 + SYSTEM_TTL_MAX.as_secs(),
            ),
            (None, explicit, None, Some(1100), 1100),
            (Some(secs(100)), explicit, None, Some(1100), 1100),
            (Some(secs(101)), explicit, None, None, 1100),
            (Some(secs(100)), explicit, Some(at(1050)), None, 1050),
        ] {
            let asked = Asked { ttl, explicit_max, period: None };
            let ends = |excess| begin(now, asked, parent, excess).ok().map(|life| life.expires);
            assert_eq!(ends(Excess::Refuse), refuse.map(at), "{asked:?} {parent:?}");
            assert_eq!(ends(Excess::Cap), Some(at(cap)), "{asked:?} {parent:?}");
        }
    }

    #[test]
    fn renewing_goes_as_far_as_the_nearest_bound() {
        let (created, now) = (at(1000), at(1040));
        let system = 1000 + SYSTEM_TTL_MAX.as_secs();
        for (period, explicit_max, increment, parents, end) in [
            (None, None, None, None, 1140),
            (None, None, Some(secs(10)), None, 1050),
            (None, None, Some(secs(500)), None, 1540),
            (None, None, Some(secs(u64::MAX)), None, system),
            (None, Some(at(1120)), None, None, 1120),
            (None, Some(at(1120)), Some(secs(10)), None, 1050),
            (None, None, None, Some(at(1060)), 1060),
            (Some(secs(300)), None, None, None, 1340),
            (Some(secs(300)), None, Some(secs(5000)), None, 1340),
            (Some(secs(300)), Some(at(1200)), None, None, 1200),
            (Some(secs(300)), None, None, Some(at(1100)), 1100),
        ] {
            let terms = Terms { period, explicit_max, ..Terms::plain(Some(secs(100))) };
            let found = renewed(&terms, created, increment, parents, now);
            assert_eq!(found, Some(at(end)), "{period:?} {explicit_max:?} {increment:?} {parents:?}");
        }
        assert_eq!(renewed(&Terms::plain(None), created, Some(secs(1)), None, now), None);
        // the last second of 768 hours, and a period beyond them
        let late = at(system - 1);
        assert_eq!(renewed(&Terms::plain(Some(secs(100))), created, None, None, late), Some(at(system)));
        let periodic = Terms { period: Some(secs(300)), ..Terms::plain(Some(secs(300))) };
        assert_eq!(renewed(&periodic, created, None, None, late), Some(at(system + 299)));
        // one that was made for longer than the system's maximum keeps what it was made for
        assert_eq!(renewed(&Terms::plain(Some(TTL_MAX)), created, None, None, now), Some(created.plus(TTL_MAX)));
    }
}
