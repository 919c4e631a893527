//! What the vault answered: JSON in memory that is wiped, read field by field.

use crate::{Error, SecretBytes};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::Duration;
use zeroize::Zeroizing;

/// An answer's data, and the lease that it comes with. Prints as nothing.
pub struct Secret {
    data: SecretBytes,
    lease: Option<Granted>,
}

/// The lease of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub id: String,
    pub ttl: Duration,
    pub renewable: bool,
}

/// The envelope around all answers.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(default)]
    lease_id: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    auth: Option<&'a RawValue>,
    #[serde(borrow, default)]
    wrap_info: Option<&'a RawValue>,
}

/// What a login gives.
#[derive(Deserialize)]
pub(crate) struct Auth {
    pub(crate) client_token: Zeroizing<String>,
    #[serde(default)]
    pub(crate) lease_duration: u64,
    #[serde(default)]
    pub(crate) renewable: bool,
}

#[derive(Deserialize)]
struct WrapInfo {
    token: Zeroizing<String>,
}

impl<'a> Envelope<'a> {
    pub(crate) fn parse(answer: &'a SecretBytes) -> Result<Self, Error> {
        parsed(answer.expose())
    }

    pub(crate) fn auth(&self) -> Result<Auth, Error> {
        parsed(self.auth.ok_or(Error::Answer)?.get().as_bytes())
    }

    pub(crate) fn wrapping_token(&self) -> Result<SecretBytes, Error> {
        let info: WrapInfo = parsed(self.wrap_info.ok_or(Error::Answer)?.get().as_bytes())?;
        Ok(SecretBytes::copy_from(info.token.as_bytes()))
    }

    pub(crate) fn granted(&self) -> Option<Granted> {
        let ttl = Duration::from_secs(self.lease_duration);
        (!self.lease_id.is_empty()).then(|| Granted { id: self.lease_id.clone(), ttl, renewable: self.renewable })
    }

    /// The data; an empty object where there is none.
    pub(crate) fn secret(&self) -> Secret {
        let data = self.data.map_or("{}", RawValue::get);
        Secret { data: SecretBytes::copy_from(data.as_bytes()), lease: self.granted() }
    }
}

impl Secret {
    pub(crate) fn parse(answer: &SecretBytes) -> Result<Self, Error> {
        if answer.is_empty() {
            return Ok(Self { data: SecretBytes::copy_from(b"{}"), lease: None });
        }
        Ok(Envelope::parse(answer)?.secret())
    }

    /// A member of the data that is data itself, as KV's versions have it; the lease stays behind.
    pub(crate) fn member(&self, name: &str) -> Result<Self, Error> {
        let data = self.raw(name)?.ok_or(Error::Answer)?;
        Ok(Self { data: SecretBytes::copy_from(data.get().as_bytes()), lease: None })
    }

    pub fn lease(&self) -> Option<&Granted> {
        self.lease.as_ref()
    }

    /// The data as JSON.
    pub fn json(&self) -> &SecretBytes {
        &self.data
    }

    /// The data as a type of yours; take types that wipe themselves.
    pub fn parse_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        parsed(self.data.expose())
    }

    /// A field's text; of what is no text, its JSON. Nothing where there is no such field.
    pub fn field(&self, name: &str) -> Result<Option<SecretBytes>, Error> {
        let Some(raw) = self.raw(name)? else { return Ok(None) };
        let text = if raw.get().starts_with('"') {
            let text: Zeroizing<String> = parsed(raw.get().as_bytes())?;
            SecretBytes::copy_from(text.as_bytes())
        } else {
            SecretBytes::copy_from(raw.get().as_bytes())
        };
        Ok(Some(text))
    }

    fn raw(&self, name: &str) -> Result<Option<&RawValue>, Error> {
        let fields: BTreeMap<String, &RawValue> = parsed(self.data.expose())?;
        Ok(fields.get(name).copied())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Never with the parser's own words: they may hold what it read.
fn parsed<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|_| Error::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_nothing_of_them_is_printed() {
        let answer = br#"{"lease_id":"database/creds/app/1","lease_duration":60,"renewable":true,
            "data":{"username":"u\n","port":5432,"list":["s3cret"]},"auth":null,"wrap_info":null}"#;
        let secret = Secret::parse(&SecretBytes::copy_from(answer)).unwrap();
        for (name, expected) in
            [("username", Some("u\n")), ("port", Some("5432")), ("list", Some("[\"s3cret\"]")), ("none", None)]
        {
            let found = secret.field(name).unwrap();
            assert_eq!(found.as_ref().map(SecretBytes::expose), expected.map(str::as_bytes), "{name}");
        }
        let granted = Granted { id: "database/creds/app/1".into(), ttl: Duration::from_secs(60), renewable: true };
        assert_eq!(secret.lease(), Some(&granted));
        assert!(!format!("{secret:?}").contains("s3cret"));
        let error = Secret::parse(&SecretBytes::copy_from(b"{\"data\": s3cret}")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
        assert!(Secret::parse(&SecretBytes::copy_from(b"")).unwrap().field("a").unwrap().is_none());
    }
}
