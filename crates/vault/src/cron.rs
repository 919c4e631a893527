//! Schedules in cron's five fields, by UTC: minute, hour, day of the month, month, day of the week.
//!
//! Always: pure. Numbers, `*`, lists, ranges and steps; names of months and days are not known.

use envelope::Timestamp;
use time::{Duration, OffsetDateTime};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days were told: then either will do.
    either_day: bool,
}

impl Schedule {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else { return None };
        let mut week = bits(weekdays, 0, 7)?;
        // Sunday twice
        week |= (week >> 7) & 1;
        Some(Self {
            minutes: bits(minutes, 0, 59)?,
            hours: bits(hours, 0, 23)?,
            days: bits(days, 1, 31)?,
            months: bits(months, 1, 12)?,
            weekdays: week & 0x7f,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        })
    }

    /// The first minute after `now` that it names, within eight years.
    pub(crate) fn after(&self, now: Timestamp) -> Option<Timestamp> {
        let secs = i64::try_from(now.unix_secs()).ok()?;
        let mut at = OffsetDateTime::from_unix_timestamp(secs - secs.rem_euclid(60) + 60).ok()?;
        let has = |bits: u64, number: u8| bits >> number & 1 == 1;
        for _ in 0..STEPS_MAX {
            if !has(self.months, u8::from(at.month())) || !self.has_day(at) {
                at = at.replace_time(time::Time::MIDNIGHT).checked_add(Duration::DAY)?;
            } else if !has(self.hours, at.hour()) {
                at = at.replace_minute(0).ok()?.checked_add(Duration::HOUR)?;
            } else if !has(self.minutes, at.minute()) {
                at = at.checked_add(Duration::MINUTE)?;
            } else {
                return u64::try_from(at.unix_timestamp()).ok().map(|secs| Timestamp::from_unix_millis(secs * 1000));
            }
        }
        None
    }

    fn has_day(&self, at: OffsetDateTime) -> bool {
        let day = self.days >> at.day() & 1 == 1;
        let weekday = self.weekdays >> at.weekday().number_days_from_sunday() & 1 == 1;
        if self.either_day { day || weekday } else { day && weekday }
    }
}

/// The numbers of a field.
fn bits(field: &str, least: u8, most: u8) -> Option<u64> {
    let mut bits = 0u64;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u8>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let (from, to) = match (range, range.split_once('-')) {
            ("*", _) => (least, most),
            (_, Some((from, to))) => (number(from)?, number(to)?),
            // `5/10`: from there on
            (_, None) if part.contains('/') => (number(range)?, most),
            (_, None) => (number(range)?, number(range)?),
        };
        if from < least || to > most || from > to {
            return None;
        }
        bits |= (from..=to).step_by(usize::from(step)).fold(0, |bits, number| bits | 1 << number);
    }
    Some(bits)
}

fn number(text: &str) -> Option<u8> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Days of eight years, hours of a day and minutes of an hour.
const STEPS_MAX: usize = 8 * 366 + 24 + 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_names_the_next_minute_or_is_refused() {
        // 2023-11-14T22:13:20Z, a Tuesday
        let now = Timestamp::from_unix_millis(1_700_000_000_000);
        for (text, expected) in [
            ("* * * * *", "2023-11-14T22:14:00Z"),
            ("0 0 * * *", "2023-11-15T00:00:00Z"),
            ("30 3 * * 6", "2023-11-18T03:30:00Z"),
            ("*/20 22 * * *", "2023-11-14T22:20:00Z"),
            ("13 22 * * *", "2023-11-15T22:13:00Z"),
            ("0 12 1 1 *", "2024-01-01T12:00:00Z"),
            ("0 0 29 2 *", "2024-02-29T00:00:00Z"),
            ("0 0 1 * 0", "2023-11-19T00:00:00Z"),
            ("0 0 * * 7", "2023-11-19T00:00:00Z"),
            ("5,10-12 1-3/2 * * *", "2023-11-15T01:05:00Z"),
        ] {
            let next = Schedule::parse(text).unwrap().after(now).unwrap();
            assert_eq!(crate::clock::rfc3339(next), expected, "{text}");
        }
        for text in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "*/0 * * * *",
            "5-1 * * * *",
            "+1 * * * *",
            "a * * * *",
        ] {
            assert_eq!(Schedule::parse(text), None, "{text}");
        }
        assert_eq!(Schedule::parse("0 0 31 2 *").unwrap().after(now), None);
    }
}
