//! Times as the API tells them.

use envelope::Timestamp;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// RFC 3339, to the millisecond; nothing for what cannot be told.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let nanos = i128::from(at.unix_millis()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_rfc_3339() {
        for (millis, text) in [(0, "1970-01-01T00:00:00Z"), (1_700_000_000_123, "2023-11-14T22:13:20.123Z")] {
            assert_eq!(rfc3339(Timestamp::from_unix_millis(millis)), text);
        }
        assert_eq!(rfc3339(Timestamp::from_unix_millis(u64::MAX)), "");
    }
}
