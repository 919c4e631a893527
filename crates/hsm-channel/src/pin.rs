//! Pins: what one side knows of the other's key.

use envelope::mac;
use std::fmt;
use std::str::FromStr;

/// SHA-256 of a SubjectPublicKeyInfo (RFC 5280 §4.1). Written `sha256:` and 64 hexadecimal digits in lower case.
///
/// There is no `PartialEq`: pins are compared by [`Self::matches`], in constant time.
#[derive(Clone, Copy)]
pub struct Pin([u8; 32]);

/// Not a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a pin: expected sha256: and 64 hexadecimal digits in lower case")]
pub struct MalformedPin;

impl Pin {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The pin of a public key in DER.
    pub fn of(spki: &[u8]) -> Self {
        Self(mac::sha256(spki))
    }

    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Equal, found out in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        mac::equal(&self.0, &other.0)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = MalformedPin;

    fn from_str(raw: &str) -> Result<Self, MalformedPin> {
        let digits = raw.strip_prefix(PREFIX).filter(|digits| digits.len() == 64).ok_or(MalformedPin)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| match digit {
                b'0'..=b'9' => Ok(digit - b'0'),
                b'a'..=b'f' => Ok(digit - b'a' + 10),
                _ => Err(MalformedPin),
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

const PREFIX: &str = "sha256:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pin_has_one_spelling() {
        // FIPS 180-4: SHA-256 of the empty string
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Pin::of(b"").to_string(), text);
        assert!(text.parse::<Pin>().unwrap().matches(&Pin::of(b"")));
        assert!(!Pin::of(b"").matches(&Pin::of(b"x")));
        for raw in [
            "",
            "sha256:",
            &text[7..],
            &text[..70],
            &text.to_uppercase(),
            &text.replace("e3", "E3"),
            &text.replace("e3", "+3"),
            &format!("{text}0"),
            &format!(" {text}"),
        ] {
            assert_eq!(raw.parse::<Pin>().unwrap_err(), MalformedPin, "{raw}");
        }
    }
}
