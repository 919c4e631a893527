//! Durations as Vault's clients write them: seconds (`90`), or Go's notation with days (`1h30m`, `7d`, `250ms`).

use std::time::Duration;

/// Longest: a hundred years.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Zero and empty are nothing.
pub fn parse(text: &str) -> Result<Option<Duration>, &'static str> {
    let total = match text {
        "" => 0,
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => number(text)?.checked_mul(1000).ok_or(TOO_LONG)?,
        text => parts(text)?,
    };
    let duration = Duration::from_millis(total);
    if duration > DURATION_MAX { Err(TOO_LONG) } else { Ok((total > 0).then_some(duration)) }
}

/// In milliseconds.
fn parts(mut text: &str) -> Result<u64, &'static str> {
    let mut total = 0u64;
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or(MALFORMED)?;
        let (amount, rest) = text.split_at(digits);
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(end);
        let unit: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(MALFORMED),
        };
        let part = number(amount)?.checked_mul(unit).ok_or(TOO_LONG)?;
        total = total.checked_add(part).ok_or(TOO_LONG)?;
        text = rest;
    }
    Ok(total)
}

fn number(digits: &str) -> Result<u64, &'static str> {
    digits.parse().map_err(|_| TOO_LONG)
}

/// As Go prints a duration of whole seconds: `1h0m0s`, `0s`.
pub fn show(duration: Duration) -> String {
    let secs = duration.as_secs();
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

const MALFORMED: &str = "neither seconds nor a duration like 1h30m";
const TOO_LONG: &str = "longer than a hundred years";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_or_refused() {
        let secs = |secs| Ok(Some(Duration::from_secs(secs)));
        for (text, expected) in [
            ("", Ok(None)),
            ("0", Ok(None)),
            ("0s", Ok(None)),
            ("90", secs(90)),
            ("60s", secs(60)),
            ("1h30m", secs(5400)),
            ("7d", secs(604_800)),
            ("250ms", Ok(Some(Duration::from_millis(250)))),
            ("-1", Err(MALFORMED)),
            ("-1s", Err(MALFORMED)),
            ("1.5h", Err(MALFORMED)),
            ("1w", Err(MALFORMED)),
            ("h", Err(MALFORMED)),
            (" 1h", Err(MALFORMED)),
            ("1h ", Err(MALFORMED)),
            ("1e3", Err(MALFORMED)),
            ("18446744073709551616", Err(TOO_LONG)),
            ("18446744073709551615", Err(TOO_LONG)),
            ("9999999999999h", Err(TOO_LONG)),
            ("36601d", Err(TOO_LONG)),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
        assert_eq!(show(Duration::from_secs(3661)), "1h1m1s");
        assert_eq!(show(Duration::ZERO), "0s");
    }
}
