//! What can go wrong, and what of it a caller may learn: an HTTP status and `{"errors": […]}`, as Vault's clients expect.
//!
//! Never: a cause that is not the caller's. It rides inside and reaches the log.

use crate::text::Text;
use audit::AuditError;
use identity::{ChangeError, IdentityError};
use kms::KmsError;
use std::borrow::Cow;
use storage::{BarrierError, StorageError};

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A field of the body, a parameter, or a header.
    #[error("{field}: {why}")]
    InvalidField { field: Cow<'static, str>, why: Cow<'static, str> },
    /// The request as a whole, in words of ours.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// Credentials that do not log in. All causes wear one face; the record tells them apart.
    #[error("{told}")]
    LoginRefused { told: &'static str, cause: &'static str },
    #[error("permission denied")]
    PermissionDenied,
    /// Nobody was recognised; the cause is for the record.
    #[error("permission denied")]
    Unauthenticated(&'static str),
    #[error("not found")]
    NotFound,
    /// Not there, and something is known of it: a deleted version.
    #[error("not found")]
    Gone(Text),
    /// Told to who may do something in the one above it.
    #[error("namespace not found")]
    NoNamespace,
    #[error("no handler for route \"{0}\"")]
    NoRoute(String),
    #[error("unsupported operation")]
    Unsupported,
    #[error("the request is larger than what is taken here")]
    TooLarge,
    /// More at once than is allowed.
    #[error("{0}")]
    Limited(Cow<'static, str>),
    /// Others changed the same thing, again and again.
    #[error("changed by others at the same time, try again")]
    Conflict,
    /// As its clients look for it, word for word.
    #[error("Vault is sealed")]
    Sealed,
    #[error("something that this needs is away, retry later")]
    Unavailable(&'static str),
    #[error("an internal error; the log tells more")]
    Internal(Cow<'static, str>),
}

impl VaultError {
    pub fn field(field: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) -> Self {
        Self::InvalidField { field: field.into(), why: why.into() }
    }

    pub fn status(&self) -> u16 {
        match self {
            Self::InvalidField { .. } | Self::Invalid(_) | Self::LoginRefused { .. } => 400,
            Self::PermissionDenied | Self::Unauthenticated(_) => 403,
            Self::NotFound | Self::Gone(_) | Self::NoRoute(_) | Self::NoNamespace => 404,
            Self::Unsupported => 405,
            Self::TooLarge => 413,
            Self::Limited(_) => 429,
            // clients of this API repeat a 412 by themselves
            Self::Conflict => 412,
            Self::Unavailable("RATE_LIMITED") => 429,
            Self::Unavailable(_) | Self::Sealed => 503,
            Self::Internal(_) => 500,
        }
    }

    /// One word, of a closed list: for the record and the metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidField { .. } | Self::Invalid(_) => "INVALID_FIELD",
            Self::LoginRefused { cause, .. } | Self::Unauthenticated(cause) => cause,
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::NotFound | Self::Gone(_) | Self::NoNamespace => "NOT_FOUND",
            Self::NoRoute(_) => "NO_ROUTE",
            Self::Unsupported => "UNSUPPORTED_OPERATION",
            Self::TooLarge => "MESSAGE_TOO_LARGE",
            Self::Limited(_) => "LIMIT_EXCEEDED",
            Self::Conflict => "CONFLICT",
            Self::Unavailable(reason) => reason,
            Self::Sealed => "SEALED",
            Self::Internal(_) => "INTERNAL",
        }
    }

    /// What the caller reads; nothing where a status says it all.
    pub fn told(&self) -> Vec<String> {
        match self {
            Self::NotFound | Self::Gone(_) => Vec::new(),
            Self::Internal(why) => {
                tracing::error!(%why, "an internal error");
                vec![self.to_string()]
            }
            Self::InvalidField { .. }
            | Self::Invalid(_)
            | Self::LoginRefused { .. }
            | Self::PermissionDenied
            | Self::Unauthenticated(_)
            | Self::NoRoute(_)
            | Self::NoNamespace
            | Self::Unsupported
            | Self::TooLarge
            | Self::Limited(_)
            | Self::Conflict
            | Self::Sealed
            | Self::Unavailable(_) => vec![self.to_string()],
        }
    }

    /// Nobody may have learned what is in the log only: the log could not be written.
    pub fn is_unrecorded(&self) -> bool {
        matches!(self, Self::Unavailable("AUDIT_UNAVAILABLE" | "BUSY" | "RATE_LIMITED" | "RECEIPT_UNAVAILABLE"))
    }
}

impl From<BarrierError> for VaultError {
    fn from(error: BarrierError) -> Self {
        match error {
            BarrierError::Storage(StorageError::TooLarge) => Self::TooLarge,
            BarrierError::Storage(StorageError::Damaged(_)) => Self::Internal(error.to_string().into()),
            BarrierError::Storage(_) => Self::Unavailable("STORAGE_UNAVAILABLE"),
            BarrierError::Closed => Self::Sealed,
            BarrierError::Altered(_)
            | BarrierError::UnknownEpoch { .. }
            | BarrierError::MalformedKeyring
            | BarrierError::Randomness => Self::Internal(error.to_string().into()),
        }
    }
}

impl From<StorageError> for VaultError {
    fn from(error: StorageError) -> Self {
        BarrierError::Storage(error).into()
    }
}

impl From<AuditError> for VaultError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Unavailable => Self::Unavailable("AUDIT_UNAVAILABLE"),
            AuditError::Busy => Self::Unavailable("BUSY"),
            AuditError::Unsigned => Self::Unavailable("RECEIPT_UNAVAILABLE"),
        }
    }
}

impl From<ChangeError> for VaultError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Conflict(_) => Self::Conflict,
            ChangeError::Unknown => Self::Unavailable("STORAGE_UNAVAILABLE"),
            ChangeError::Barrier(error) => error.into(),
            ChangeError::Audit(error) => error.into(),
        }
    }
}

impl From<IdentityError> for VaultError {
    fn from(error: IdentityError) -> Self {
        use identity::Face;
        match error.face() {
            Face::Unauthenticated => Self::Unauthenticated(error.cause()),
            Face::PermissionDenied => Self::PermissionDenied,
            Face::InvalidArgument | Face::FailedPrecondition => match error.field() {
                Some(field) => Self::field(field, error.to_string()),
                None => Self::Invalid(error.to_string().into()),
            },
            Face::NotFound => Self::NotFound,
            Face::ResourceExhausted if error.reason() == "BUSY" => Self::Unavailable("BUSY"),
            Face::ResourceExhausted => Self::Limited(error.to_string().into()),
            Face::Aborted => Self::Conflict,
            Face::Unavailable if error.reason() == "SEALED" => Self::Sealed,
            Face::Unavailable => Self::Unavailable(error.reason()),
            Face::Internal => Self::Internal(error.to_string().into()),
        }
    }
}

impl From<KmsError> for VaultError {
    fn from(error: KmsError) -> Self {
        use kms::Face;
        match error.face() {
            Face::PermissionDenied => Self::PermissionDenied,
            Face::InvalidArgument | Face::FailedPrecondition | Face::AlreadyExists => match error.field() {
                Some(field) => Self::field(field, error.to_string()),
                None => Self::Invalid(error.to_string().into()),
            },
            Face::NotFound => Self::NotFound,
            Face::ResourceExhausted => Self::Limited(error.to_string().into()),
            Face::Aborted => Self::Conflict,
            Face::Unavailable if error.reason() == "SEALED" => Self::Sealed,
            Face::Unavailable => Self::Unavailable(error.reason()),
            Face::Internal => Self::Internal(error.to_string().into()),
        }
    }
}
