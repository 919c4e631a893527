//! Arguments' values, parsed once: contexts, base64, durations, dates, the API's names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::EncryptionContext;
use std::time::Duration;

use super::Usage;

/// `key=value` of an encryption context; the value may hold `=` and may be empty.
pub fn pair(raw: &str) -> Result<(String, String), String> {
    match raw.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected key=value".to_owned()),
    }
}

/// All pairs together: no key twice, not longer than the API takes.
pub fn context(pairs: &[(String, String)]) -> Result<EncryptionContext, Usage> {
    EncryptionContext::parse(pairs.iter().cloned()).map_err(|error| Usage(format!("{error}: correct --context")))
}

/// Standard base64; white space from line-wrapped output is left out.
pub fn base64_bytes(raw: &str) -> Result<Bytes, String> {
    let compact: String = raw.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(compact).map(Bytes::from).map_err(|_| "expected base64".to_owned())
}

/// SHA-256 in hexadecimal, colons allowed, as `openssl x509 -fingerprint -sha256` prints it.
pub fn thumbprint(raw: &str) -> Result<Bytes, String> {
    match hex::decode(raw.replace(':', "")) {
        Ok(bytes) if bytes.len() == 32 => Ok(bytes.into()),
        Ok(_) | Err(_) => Err("expected a SHA-256 as 64 hexadecimal digits".to_owned()),
    }
}

/// A whole number and a unit: `ms`, `s`, `m`, `h`, `d`; without a unit seconds.
pub fn duration(raw: &str) -> Result<Duration, String> {
    let malformed = || "expected a duration such as 30s, 15m, 12h or 7d".to_owned();
    let digits = raw.len() - raw.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = raw.split_at(digits);
    let number: u64 = number.parse().map_err(|_| malformed())?;
    let secs = match unit {
        "ms" => return nonzero(Duration::from_millis(number)),
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(malformed()),
    };
    nonzero(Duration::from_secs(number.checked_mul(secs).ok_or_else(malformed)?))
}

fn nonzero(duration: Duration) -> Result<Duration, String> {
    // what no clock adds up is as bad as nothing
    if duration.is_zero() || duration > DURATION_MAX {
        return Err("expected a duration of more than nothing and at most 100 years".to_owned());
    }
    Ok(duration)
}

const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A point in time as RFC 3339 §5.6 writes it, in UTC and to the second: `2027-01-31T12:00:00Z`.
pub fn date(raw: &str) -> Result<prost_types::Timestamp, String> {
    let read = || {
        let fields = raw.strip_suffix('Z')?;
        let (day, time) = fields.split_once('T')?;
        let [year, month, date] = numbers(day, '-', [4, 2, 2])?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
        let legal = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&date);
        let seconds = days_from_civil(year, month, date) * 86_400 + hour * 3600 + minute * 60 + second;
        (legal && hour < 24 && minute < 60 && second < 60).then_some(seconds)
    };
    let seconds = read().ok_or_else(|| "expected a date such as 2027-01-31T12:00:00Z".to_owned())?;
    Ok(prost_types::Timestamp { seconds, nanos: 0 })
}

fn numbers(text: &str, separator: char, lengths: [usize; 3]) -> Option<[i64; 3]> {
    let mut out = [0; 3];
    let mut parts = text.split(separator);
    for (slot, length) in out.iter_mut().zip(lengths) {
        let part = parts.next().filter(|part| part.len() == length && part.bytes().all(|b| b.is_ascii_digit()))?;
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

/// RFC 3339 in UTC, to the millisecond where there are any.
pub fn date_text(at: &prost_types::Timestamp) -> String {
    let (days, second) = (at.seconds.div_euclid(86_400), at.seconds.rem_euclid(86_400));
    let (year, month, date) = civil_from_days(days);
    let millis = match at.nanos / 1_000_000 {
        0 => String::new(),
        millis => format!(".{millis:03}"),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}{millis}Z")
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, date: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + date - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

fn days_in(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_civil(next_year, next_month, 1) - days_from_civil(year, month, 1)
}

/// A parser of one of the API's enums by the names' own parts, in any case, and the way back.
macro_rules! api_names {
    ($($parse:ident $text:ident $type:ty, $prefix:literal: $($name:literal)+;)*) => {
        $(
            pub fn $parse() -> impl clap::builder::TypedValueParser<Value = $type> {
                use clap::builder::TypedValueParser as _;
                clap::builder::PossibleValuesParser::new([$($name),+]).try_map(|name| {
                    <$type>::from_str_name(&format!(concat!($prefix, "{}"), name.to_ascii_uppercase()))
                        .ok_or("not a name of the API")
                })
            }

            /// The name's own part; a value that this version does not know is unspecified.
            pub fn $text(value: i32) -> String {
                let name = <$type>::try_from(value).unwrap_or_default().as_str_name();
                name.strip_prefix($prefix).unwrap_or(name).to_owned()
            }
        )*

        #[cfg(test)]
        pub(super) fn all_names() -> Vec<(&'static str, Vec<&'static str>, Vec<String>)> {
            vec![$((stringify!($parse), vec![$($name),+], (1..64).map_while(|value| {
                <$type>::try_from(value).ok().map(|_| $text(value))
            }).collect())),*]
        }
    };
}

api_names! {
    key_spec key_spec_text proto::kms::KeySpec, "KEY_SPEC_":
        "SYMMETRIC_DEFAULT" "HMAC_256" "ECC_NIST_P256" "ECC_NIST_EDWARDS25519" "RSA_2048" "RSA_3072" "RSA_4096";
    key_usage key_usage_text proto::kms::KeyUsage, "KEY_USAGE_":
        "ENCRYPT_DECRYPT" "SIGN_VERIFY" "GENERATE_VERIFY_MAC";
    protection_level protection_level_text proto::kms::ProtectionLevel, "PROTECTION_LEVEL_":
        "BOUNDARY" "HSM_RESIDENT";
    key_state key_state_text proto::kms::KeyState, "KEY_STATE_":
        "ENABLED" "DISABLED" "PENDING_DELETION" "DELETED";
    origin origin_text proto::kms::Origin, "ORIGIN_":
        "GENERATED" "IMPORTED";
    deletion_finality deletion_finality_text proto::kms::DeletionFinality, "DELETION_FINALITY_":
        "WHEN_BACKUPS_OR_DOMAIN_GENERATION_ARE_GONE" "FINAL";
    signing_algorithm signing_algorithm_text proto::kms::SigningAlgorithmSpec, "SIGNING_ALGORITHM_SPEC_":
        "RSASSA_PSS_SHA_256" "RSASSA_PSS_SHA_384" "RSASSA_PSS_SHA_512" "RSASSA_PKCS1_V1_5_SHA_256"
        "RSASSA_PKCS1_V1_5_SHA_384" "RSASSA_PKCS1_V1_5_SHA_512" "ECDSA_SHA_256" "ED25519_SHA_512";
    mac_algorithm mac_algorithm_text proto::kms::MacAlgorithmSpec, "MAC_ALGORITHM_SPEC_":
        "HMAC_SHA_256";
    message_type message_type_text proto::kms::MessageType, "MESSAGE_TYPE_":
        "RAW" "DIGEST";
    data_key_spec data_key_spec_text proto::kms::DataKeySpec, "DATA_KEY_SPEC_":
        "AES_256" "AES_128";
    grant_operation grant_operation_text proto::kms::GrantOperation, "GRANT_OPERATION_":
        "DECRYPT" "ENCRYPT" "GENERATE_DATA_KEY" "GENERATE_DATA_KEY_WITHOUT_PLAINTEXT" "RE_ENCRYPT_FROM" "RE_ENCRYPT_TO"
        "SIGN" "VERIFY" "GET_PUBLIC_KEY" "CREATE_GRANT" "RETIRE_GRANT" "DESCRIBE_KEY" "GENERATE_MAC" "VERIFY_MAC";
    module_state module_state_text proto::operator::ModuleState, "MODULE_STATE_":
        "UNINITIALISED" "LOCKED" "OPERATIONAL" "ERROR";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_api_can_be_said() {
        for (parser, said, known) in all_names() {
            assert_eq!(said, known, "{parser}");
        }
    }

    #[test]
    fn a_pair_is_split_at_its_first_equals_sign() {
        for (raw, parsed) in [
            ("a=b", Some(("a", "b"))),
            ("a=b=c", Some(("a", "b=c"))),
            ("a=", Some(("a", ""))),
            ("=b", None),
            ("a", None),
            ("", None),
        ] {
            let expected = parsed.map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(pair(raw).ok(), expected, "{raw}");
        }
        let twice = [("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        assert!(context(&twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn durations_have_units() {
        for (raw, secs) in [("30s", 30), ("45", 45), ("15m", 900), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(duration(raw), Ok(Duration::from_secs(secs)), "{raw}");
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for raw in ["", "s", "-1s", "1.5h", "3w", "0s", "0", "99999999999999999999s", "300000000000d", "1 s", "99999d"]
        {
            assert!(duration(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn dates_are_read_and_written_in_utc() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2024-12-31T23:59:59Z", 1_735_689_599),
            ("2026-11-25T04:03:52Z", 1_795_579_432),
            ("2400-03-01T00:00:00Z", 13_574_649_600),
        ] {
            let at = prost_types::Timestamp { seconds, nanos: 0 };
            assert_eq!((date(text), date_text(&at)), (Ok(at), text.to_owned()));
        }
        assert_eq!(date_text(&prost_types::Timestamp { seconds: 1, nanos: 5_000_000 }), "1970-01-01T00:00:01.005Z");
        for day in -800_000..800_000 {
            let (year, month, date) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, date), day);
        }
        let malformed = [
            "",
            "2026-11-25",
            "2026-11-25T04:03:52",
            "2026-11-25 04:03:52Z",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "+026-01-01T00:00:00Z",
            "2026-1-01T00:00:00Z",
        ];
        for raw in malformed {
            assert!(date(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn bytes_are_base64_or_hexadecimal() {
        assert_eq!(base64_bytes("U1IB\n AQ==").unwrap(), &b"SR\x01\x01"[..]);
        for raw in ["U1IB!", "U1I", "_-8="] {
            assert!(base64_bytes(raw).is_err(), "{raw}");
        }
        assert_eq!(thumbprint(&["ab"; 32].join(":")).unwrap(), vec![0xab; 32]);
        for raw in ["", "ab", "zz", &"ab".repeat(33)] {
            assert!(thumbprint(raw).is_err(), "{raw}");
        }
    }
}
