//! A trust domain's bundle: whom it certifies by (SPIFFE Trust Domain and Bundle §4). Pure.

use crate::auth::cert::check_authority;
use crate::auth::jose::KeySet;
use crate::body::Strict;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// As stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bundle {
    /// DER of authorities, base64.
    x509: Vec<String>,
    /// The JWK set that it came as; empty: there are no keys for JWT-SVIDs.
    jwks: String,
    pub(super) sequence: Option<u64>,
    /// Seconds after which it is to be looked at again.
    pub(super) refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct Jwk {
    #[serde(rename = "use")]
    usage: Option<String>,
    kid: Option<String>,
    x5c: Option<Vec<String>>,
}

impl Bundle {
    /// A document of a bundle endpoint. Keys of other uses count for nothing; one without any key revokes all.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        serde_json::from_slice::<Strict>(text).map_err(|_| "no JSON of unique keys")?;
        let document: Document = serde_json::from_slice(text).map_err(|_| "no SPIFFE bundle")?;
        if document.keys.len() > KEYS_MAX {
            return Err("more keys than are looked at");
        }
        let (mut x509, mut jwt) = (Vec::new(), Vec::new());
        for key in document.keys {
            let jwk: Jwk = serde_json::from_value(key.clone()).map_err(|_| "a malformed key")?;
            match (jwk.usage.as_deref(), jwk.x5c.as_deref()) {
                // §4.2.2: exactly one
                (Some("x509-svid"), Some([certificate])) => {
                    let der = STANDARD.decode(certificate).map_err(|_| "a certificate that is not base64")?;
                    check_authority("bundle", &der).map_err(|_| "a certificate that is no authority's")?;
                    x509.push(STANDARD.encode(der));
                }
                (Some("x509-svid"), _) => return Err("an x509-svid key without one certificate"),
                (Some("jwt-svid"), _) if jwk.kid.as_deref().is_none_or(str::is_empty) => {
                    return Err("a jwt-svid key without an id");
                }
                (Some("jwt-svid"), _) => jwt.push(key),
                // §4.2.1: a key without a use is not for us to use
                (Some(_) | None, _) => {}
            }
        }
        let jwks = if jwt.is_empty() { String::new() } else { serde_json::json!({ "keys": jwt }).to_string() };
        Ok(Self { x509, jwks, sequence: document.spiffe_sequence, refresh_hint: document.spiffe_refresh_hint })
    }

    /// Of authorities in DER, without keys for JWT-SVIDs.
    pub(super) fn of(authorities: &[Vec<u8>]) -> Self {
        Self { x509: authorities.iter().map(|der| STANDARD.encode(der)).collect(), ..Self::default() }
    }

    pub(super) fn authorities(&self) -> Vec<Vec<u8>> {
        self.x509.iter().filter_map(|text| STANDARD.decode(text).ok()).collect()
    }

    pub(super) fn keys(&self) -> Option<KeySet> {
        KeySet::from_jwks_for(self.jwks.as_bytes(), "jwt-svid").ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.x509.is_empty() && self.jwks.is_empty()
    }

    pub(super) fn refresh_after(&self) -> Duration {
        let hint = self.refresh_hint.filter(|hint| *hint > 0).map_or(REFRESH, Duration::from_secs);
        hint.clamp(REFRESH_MIN, REFRESH_MAX)
    }

    /// §4.1.1: of two with sequence numbers the one with the lower is older. One that has lost its number may be, and counts
    /// as such.
    pub(super) fn is_older_than(&self, known: &Self) -> bool {
        match (self.sequence, known.sequence) {
            (Some(this), Some(known)) => this < known,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
}

const KEYS_MAX: usize = 128;
/// SPIFFE Federation §5: where nothing is hinted.
const REFRESH: Duration = Duration::from_secs(300);
const REFRESH_MIN: Duration = Duration::from_secs(10);
const REFRESH_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_not_sound_is_none() {
        for (text, why) in [
            ("", "no JSON"),
            ("[]", "no SPIFFE bundle"),
            (r#"{"keys": 7}"#, "no SPIFFE bundle"),
            (r#"{"keys": [], "keys": []}"#, "no JSON of unique keys"),
            (r#"{"keys": [7]}"#, "a malformed key"),
            (r#"{"keys": [{"use": "x509-svid"}]}"#, "without one certificate"),
            (r#"{"keys": [{"use": "x509-svid", "x5c": []}]}"#, "without one certificate"),
            (r#"{"keys": [{"use": "x509-svid", "x5c": ["!"]}]}"#, "not base64"),
            (r#"{"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}]}"#, "no authority's"),
            (r#"{"keys": [{"use": "x509-svid", "x5c": ["AAAA", "AAAA"]}]}"#, "without one certificate"),
            (r#"{"keys": [{"use": "jwt-svid", "kty": "EC"}]}"#, "without an id"),
            (r#"{"keys": [], "spiffe_sequence": -1}"#, "no SPIFFE bundle"),
        ] {
            let found = Bundle::parse(text.as_bytes()).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
        let none = Bundle::parse(br#"{"keys": [{"use": "tls"}, {}], "spiffe_refresh_hint": 7, "x": 1}"#).unwrap();
        assert!(none.is_empty() && none.refresh_after() == REFRESH_MIN && none.keys().is_none());
        let [old, new] = [3, 4].map(|sequence| Bundle { sequence: Some(sequence), ..Bundle::default() });
        assert!(old.is_older_than(&new) && !new.is_older_than(&old) && !old.is_older_than(&old));
        assert!(none.is_older_than(&new) && !new.is_older_than(&none) && !none.is_older_than(&none));
    }
}
