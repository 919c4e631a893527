//! What can go wrong, and what of it a caller may learn.

use crate::change::ChangeError;
use crate::policy::MalformedPolicy;
use audit::{AckRefusal, AuditError};
use storage::{BarrierError, StorageError};

/// Causes ride inside and reach the log; a caller sees [`IdentityError::face`], [`IdentityError::reason`] and
/// [`IdentityError::field`].
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// All causes wear one face.
    #[error("unauthenticated")]
    Unauthenticated(Cause),
    #[error("permission denied")]
    PermissionDenied,
    #[error("the field `{0}` is missing, malformed or out of range")]
    InvalidField(&'static str),
    #[error("the policy is malformed: {0}")]
    Policy(#[from] MalformedPolicy),
    #[error("the marker is none of ours")]
    InvalidMarker,
    #[error("no such policy")]
    PolicyNotFound,
    #[error("no such role")]
    RoleNotFound,
    #[error("no such token")]
    TokenNotFound,
    /// Nor a group, nor an alias.
    #[error("no such entity")]
    EntityNotFound,
    #[error("the token is not renewable")]
    TokenNotRenewable,
    /// Nothing of it is stored: it ends by itself, or with its parent.
    #[error("the token is stateless")]
    TokenStateless,
    #[error("a limit is exceeded")]
    LimitExceeded,
    /// Others changed the same thing, again and again.
    #[error("changed by others at the same time")]
    Conflict,
    #[error("the store cannot be used: {0}")]
    Storage(StorageError),
    /// The barrier holds no keys.
    #[error("sealed by hand")]
    Sealed,
    /// A stored value was altered, moved, or cannot be understood.
    #[error("stored data was altered: {0}")]
    Altered(String),
    #[error("the audit log cannot be used: {0}")]
    Audit(#[from] AuditError),
    /// A policy demands more of the audit log than can be had.
    #[error(transparent)]
    Ack(#[from] AckRefusal),
    #[error("an invariant does not hold: {0}")]
    Internal(&'static str),
}

/// Why nobody was recognised. For the log and the record only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    NoCredentials,
    TokenMalformed,
    TokenUnknown,
    TokenExpired,
    TokenUsedUp,
    /// An ancestor, or the certificate role by which it was made, is gone.
    AncestorGone,
    /// Of another cluster generation: everything from before a restore is void.
    OtherGeneration,
    /// A stateless token from before the barrier's keyring was rotated.
    OldEpoch,
    /// Bound to a certificate that was not shown.
    CertificateMissing,
    /// Bound to another certificate.
    CertificateOther,
    /// No role knows the certificate.
    CertificateUnknown,
    /// Bound to addresses, and used from another one.
    AddressOther,
    /// The token's entity is gone.
    EntityGone,
    EntityDisabled,
}

/// The status that a façade puts on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    Unauthenticated,
    PermissionDenied,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    Unavailable,
    Internal,
}

impl Cause {
    /// One word for the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCredentials => "NO_CREDENTIALS",
            Self::TokenMalformed => "TOKEN_MALFORMED",
            Self::TokenUnknown => "TOKEN_UNKNOWN",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::TokenUsedUp => "TOKEN_USED_UP",
            Self::AncestorGone => "ANCESTOR_GONE",
            Self::OtherGeneration => "OTHER_GENERATION",
            Self::OldEpoch => "OLD_EPOCH",
            Self::CertificateMissing => "CERTIFICATE_MISSING",
            Self::CertificateOther => "CERTIFICATE_OTHER",
            Self::CertificateUnknown => "CERTIFICATE_UNKNOWN",
            Self::AddressOther => "ADDRESS_OTHER",
            Self::EntityGone => "ENTITY_GONE",
            Self::EntityDisabled => "ENTITY_DISABLED",
        }
    }
}

impl IdentityError {
    pub fn face(&self) -> Face {
        match self {
            Self::Unauthenticated(_) => Face::Unauthenticated,
            Self::PermissionDenied => Face::PermissionDenied,
            Self::InvalidField(_) | Self::Policy(_) | Self::InvalidMarker => Face::InvalidArgument,
            Self::TokenNotRenewable | Self::TokenStateless => Face::InvalidArgument,
            Self::PolicyNotFound | Self::RoleNotFound | Self::TokenNotFound | Self::EntityNotFound => Face::NotFound,
            Self::LimitExceeded | Self::Audit(AuditError::Busy) => Face::ResourceExhausted,
            Self::Conflict => Face::Aborted,
            Self::Storage(_) | Self::Audit(AuditError::Unavailable | AuditError::Unsigned) => Face::Unavailable,
            Self::Ack(AckRefusal::NoWitness) => Face::FailedPrecondition,
            Self::Sealed | Self::Ack(AckRefusal::SetBack) => Face::Unavailable,
            Self::Altered(_) | Self::Internal(_) => Face::Internal,
        }
    }

    /// ErrorInfo's reason, of the closed list.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::InvalidField(_) | Self::Policy(_) => "INVALID_FIELD",
            Self::InvalidMarker => "INVALID_MARKER",
            Self::PolicyNotFound => "POLICY_NOT_FOUND",
            Self::RoleNotFound => "ROLE_NOT_FOUND",
            Self::TokenNotFound => "TOKEN_NOT_FOUND",
            Self::EntityNotFound => "ENTITY_NOT_FOUND",
            Self::TokenNotRenewable => "TOKEN_NOT_RENEWABLE",
            Self::TokenStateless => "TOKEN_STATELESS",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::Audit(AuditError::Busy) => "BUSY",
            Self::Conflict => "CONFLICT",
            Self::Storage(_) => "STORAGE_UNAVAILABLE",
            Self::Audit(AuditError::Unavailable) => "AUDIT_UNAVAILABLE",
            Self::Audit(AuditError::Unsigned) => "RECEIPT_UNAVAILABLE",
            Self::Ack(refusal) => refusal.reason(),
            Self::Sealed => "SEALED",
            Self::Altered(_) => "DATA_ALTERED",
            Self::Internal(_) => "INTERNAL",
        }
    }

    /// The request's field that is at fault.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::InvalidField(field) => Some(field),
            Self::Policy(_) => Some("policy"),
            Self::InvalidMarker => Some("marker"),
            Self::Unauthenticated(_)
            | Self::PermissionDenied
            | Self::PolicyNotFound
            | Self::RoleNotFound
            | Self::TokenNotFound
            | Self::EntityNotFound
            | Self::TokenNotRenewable
            | Self::TokenStateless
            | Self::LimitExceeded
            | Self::Conflict
            | Self::Storage(_)
            | Self::Sealed
            | Self::Altered(_)
            | Self::Audit(_)
            | Self::Ack(_)
            | Self::Internal(_) => None,
        }
    }

    /// The outcome's reason in a record: as [`Self::reason`], but why nobody was recognised is told apart.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Unauthenticated(cause) => cause.as_str(),
            Self::PermissionDenied
            | Self::InvalidField(_)
            | Self::Policy(_)
            | Self::InvalidMarker
            | Self::PolicyNotFound
            | Self::RoleNotFound
            | Self::TokenNotFound
            | Self::EntityNotFound
            | Self::TokenNotRenewable
            | Self::TokenStateless
            | Self::LimitExceeded
            | Self::Conflict
            | Self::Storage(_)
            | Self::Sealed
            | Self::Altered(_)
            | Self::Audit(_)
            | Self::Ack(_)
            | Self::Internal(_) => self.reason(),
        }
    }
}

impl From<StorageError> for IdentityError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Damaged(_) => Self::Altered(error.to_string()),
            StorageError::TooLarge => Self::Internal("a path, value, batch or page is beyond the store's limits"),
            StorageError::Unavailable
            | StorageError::Full
            | StorageError::Format { .. }
            | StorageError::Held
            | StorageError::TargetExists => Self::Storage(error),
        }
    }
}

impl From<BarrierError> for IdentityError {
    fn from(error: BarrierError) -> Self {
        match error {
            BarrierError::Storage(error) => error.into(),
            BarrierError::Altered(_) | BarrierError::UnknownEpoch { .. } => Self::Altered(error.to_string()),
            BarrierError::MalformedKeyring => Self::Internal("the barrier keyring is malformed"),
            BarrierError::Randomness => Self::Internal("the random generator failed"),
            BarrierError::Closed => Self::Sealed,
        }
    }
}

impl From<ChangeError> for IdentityError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Conflict(_) => Self::Conflict,
            ChangeError::Unknown => Self::Storage(StorageError::Unavailable),
            ChangeError::Barrier(error) => error.into(),
            ChangeError::Audit(error) => Self::Audit(error),
        }
    }
}
