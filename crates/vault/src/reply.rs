//! An answer, and how it looks on the wire: every member of Vault's envelope, null where there is nothing.

use crate::error::VaultError;
use crate::text::Text;
use envelope::SecretBytes;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What a handler answers.
#[derive(Debug, Default)]
pub struct Reply {
    /// JSON of `data`.
    pub data: Option<Text>,
    pub auth: Option<Auth>,
    pub wrap: Option<WrapInfo>,
    pub lease: Option<LeaseInfo>,
    pub warnings: Vec<Cow<'static, str>>,
    /// `data`'s members stand beside it once more, as older clients read them.
    pub repeated: bool,
    /// The body as it is, without an envelope, and its status.
    pub bare: Option<(u16, Text)>,
    /// Of `bare`, where it is no JSON.
    pub media_type: &'static str,
    /// The accessor of a secret in `data` that is none of a token's: of a SecretID.
    pub accessor: Option<String>,
    pub mount_type: &'static str,
}

/// A login's answer, or a new token's.
#[derive(Debug)]
pub struct Auth {
    pub client_token: SecretBytes,
    pub accessor: String,
    pub policies: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub lease_secs: u64,
    pub renewable: bool,
    pub entity_id: String,
    /// `service` or `batch`.
    pub token_type: &'static str,
    pub orphan: bool,
    pub num_uses: u32,
}

#[derive(Debug)]
pub struct LeaseInfo {
    pub id: String,
    pub secs: u64,
    pub renewable: bool,
}

#[derive(Debug)]
pub struct WrapInfo {
    pub token: SecretBytes,
    pub accessor: String,
    pub ttl_secs: u64,
    /// RFC 3339.
    pub creation_time: String,
    pub creation_path: String,
    pub wrapped_accessor: String,
}

/// What goes out.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Option<Text>,
    /// `OK`, or why not: one word, for the metrics.
    pub outcome: &'static str,
    /// Of the body; JSON where it is empty.
    pub media_type: &'static str,
}

#[derive(Serialize)]
struct Envelope<'a> {
    request_id: &'a str,
    lease_id: &'a str,
    renewable: bool,
    lease_duration: u64,
    data: Option<&'a RawValue>,
    wrap_info: Option<WireWrap<'a>>,
    warnings: Option<&'a [Cow<'static, str>]>,
    auth: Option<WireAuth<'a>>,
    mount_type: &'a str,
}

#[derive(Serialize)]
struct WireWrap<'a> {
    token: &'a str,
    accessor: &'a str,
    ttl: u64,
    creation_time: &'a str,
    creation_path: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    wrapped_accessor: &'a str,
}

#[derive(Serialize)]
struct WireAuth<'a> {
    client_token: &'a str,
    accessor: &'a str,
    policies: &'a [String],
    token_policies: &'a [String],
    identity_policies: Option<&'a [String]>,
    metadata: Option<&'a BTreeMap<String, String>>,
    lease_duration: u64,
    renewable: bool,
    entity_id: &'a str,
    token_type: &'a str,
    orphan: bool,
    mfa_requirement: Option<()>,
    num_uses: u32,
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: &'a [String],
}

impl Reply {
    /// 204.
    pub fn empty() -> Self {
        Self::default()
    }

    pub fn data(data: &impl Serialize) -> Result<Self, VaultError> {
        let text = Text::of(data).ok_or_else(|| VaultError::Internal("an answer cannot be written".into()))?;
        Ok(Self { data: Some(text), ..Self::default() })
    }

    pub fn keys<K: Serialize>(keys: &[K]) -> Result<Self, VaultError> {
        // a folder without anything is none
        if keys.is_empty() {
            return Err(VaultError::NotFound);
        }
        Self::data(&BTreeMap::from([("keys", keys)]))
    }

    pub fn auth(auth: Auth) -> Self {
        Self { auth: Some(auth), ..Self::default() }
    }

    #[must_use]
    pub fn repeated(self) -> Self {
        Self { repeated: true, ..self }
    }

    #[must_use]
    pub fn warning(mut self, warning: impl Into<Cow<'static, str>>) -> Self {
        self.warnings.push(warning.into());
        self
    }

    /// There is something in it that can be wrapped.
    pub fn has_content(&self) -> bool {
        self.data.is_some() || self.auth.is_some()
    }

    /// The whole body.
    pub fn encode(&self, request_id: &str) -> Result<Text, VaultError> {
        let unwritable = || VaultError::Internal("an answer cannot be written".into());
        let text = |secret: &SecretBytes| -> Result<zeroize::Zeroizing<String>, VaultError> {
            String::from_utf8(secret.expose().to_vec()).map(zeroize::Zeroizing::new).map_err(|_| unwritable())
        };
        let client_token = self.auth.as_ref().map(|auth| text(&auth.client_token)).transpose()?.unwrap_or_default();
        let wrapping = self.wrap.as_ref().map(|wrap| text(&wrap.token)).transpose()?.unwrap_or_default();
        let lease = self.lease.as_ref();
        let envelope = Envelope {
            request_id,
            lease_id: lease.map_or("", |lease| &lease.id),
            renewable: lease.is_some_and(|lease| lease.renewable),
            lease_duration: lease.map_or(0, |lease| lease.secs),
            data: self.data.as_ref().and_then(Text::as_raw),
            wrap_info: self.wrap.as_ref().map(|wrap| wrap.wire(&wrapping)),
            warnings: (!self.warnings.is_empty()).then_some(&self.warnings),
            auth: self.auth.as_ref().map(|auth| auth.wire(&client_token)),
            mount_type: self.mount_type,
        };
        let mut out = Text::of(&envelope).ok_or_else(unwritable)?;
        if self.repeated
            && let Some(data) = self.data.as_ref().map(Text::as_bytes)
            && let Some(members) = data.strip_prefix(b"{").filter(|rest| *rest != b"}")
        {
            // `{…}` and `{…}` become one object
            let mut joined = Text::default();
            joined.push(out.as_bytes().strip_suffix(b"}").unwrap_or_default());
            joined.push(b",");
            joined.push(members);
            out = joined;
        }
        Ok(out)
    }

    pub fn into_answer(self, request_id: &str) -> Answer {
        if let Some((status, body)) = self.bare {
            return Answer { status, body: Some(body), outcome: OK, media_type: self.media_type };
        }
        let says_nothing = self.data.is_none()
            && self.auth.is_none()
            && self.wrap.is_none()
            && self.lease.is_none()
            && self.warnings.is_empty();
        if says_nothing {
            return Answer { status: 204, body: None, outcome: OK, media_type: "" };
        }
        match self.encode(request_id) {
            Ok(body) => Answer { status: 200, body: Some(body), outcome: OK, media_type: "" },
            Err(error) => Answer::refused(error, request_id),
        }
    }
}

impl Answer {
    pub fn refused(error: VaultError, request_id: &str) -> Self {
        let (status, outcome, told) = (error.status(), error.reason(), error.told());
        let body = if let VaultError::Gone(data) = error {
            Reply { data: Some(data), ..Reply::default() }.encode(request_id).ok()
        } else {
            Text::of(&Errors { errors: &told })
        };
        Self { status, body, outcome, media_type: "" }
    }
}

impl Auth {
    fn wire<'a>(&'a self, client_token: &'a str) -> WireAuth<'a> {
        WireAuth {
            client_token,
            accessor: &self.accessor,
            policies: &self.policies,
            token_policies: &self.policies,
            identity_policies: None,
            metadata: (!self.metadata.is_empty()).then_some(&self.metadata),
            lease_duration: self.lease_secs,
            renewable: self.renewable,
            entity_id: &self.entity_id,
            token_type: self.token_type,
            orphan: self.orphan,
            mfa_requirement: None,
            num_uses: self.num_uses,
        }
    }
}

impl WrapInfo {
    fn wire<'a>(&'a self, token: &'a str) -> WireWrap<'a> {
        WireWrap {
            token,
            accessor: &self.accessor,
            ttl: self.ttl_secs,
            creation_time: &self.creation_time,
            creation_path: &self.creation_path,
            wrapped_accessor: &self.wrapped_accessor,
        }
    }
}

pub const OK: &str = "OK";
