//! What can go wrong in the key domain, and what of it a caller may learn.

use crate::key::Refusal;
use audit::{AckRefusal, AuditError};
use hsm_api::HsmError;
use identity::ChangeError;
use std::time::Duration;
use storage::{BarrierError, StorageError};

/// Causes ride inside and reach the log; a caller sees [`KmsError::face`], [`KmsError::reason`], [`KmsError::field`] and
/// [`KmsError::retry_after`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KmsError {
    /// Also what an unknown key looks like to who may not see it.
    #[error("permission denied")]
    PermissionDenied,
    #[error("the field `{0}` is missing, malformed or out of range")]
    InvalidField(&'static str),
    /// Wrong context, wrong key, altered bytes: one face.
    #[error("the ciphertext was rejected")]
    InvalidCiphertext,
    #[error("the ciphertext belongs to another key")]
    IncorrectKey,
    #[error("the key's usage does not allow this operation")]
    InvalidKeyUsage,
    #[error("the key does not offer this algorithm")]
    UnsupportedAlgorithm,
    #[error("the marker is none of ours")]
    InvalidMarker,
    #[error("no such key")]
    KeyNotFound,
    #[error("no such alias")]
    AliasNotFound,
    #[error("no such grant")]
    GrantNotFound,
    #[error("the alias exists already")]
    AliasExists,
    #[error("the client request id was used with another request")]
    RequestIdReused,
    #[error("the key is disabled")]
    KeyDisabled,
    #[error("the key is pending deletion")]
    KeyPendingDeletion,
    #[error("the key was deleted")]
    KeyDeleted,
    #[error("the key's state does not allow this operation")]
    KeyState,
    #[error("the boundary does not offer this protection level")]
    ProtectionLevelUnavailable,
    #[error("the boundary does not offer this")]
    UnsupportedByBoundary,
    #[error("the key version has used up its invocations: rotate the key")]
    InvocationsExhausted,
    #[error("a limit is exceeded")]
    LimitExceeded,
    #[error("at capacity, retry later")]
    Busy,
    /// Others changed the same thing, again and again.
    #[error("changed by others at the same time")]
    Conflict,
    #[error("the boundary cannot be used: {0}")]
    BoundaryUnavailable(HsmError),
    #[error("the store cannot be used: {0}")]
    StorageUnavailable(StorageError),
    #[error("the audit log cannot be written")]
    AuditUnavailable,
    /// All was done, and is recorded.
    #[error("carried out and recorded, but there is no receipt")]
    ReceiptUnavailable,
    /// A policy demands more of the audit log than can be had; nothing was done.
    #[error(transparent)]
    Ack(#[from] AckRefusal),
    /// The barrier holds no keys.
    #[error("sealed by hand")]
    Sealed,
    /// A stored value was altered, moved, or cannot be understood.
    #[error("stored data was altered: {0}")]
    DataAltered(String),
    #[error("an invariant does not hold: {0}")]
    Internal(&'static str),
}

/// The status that a façade puts on an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    PermissionDenied,
    InvalidArgument,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    ResourceExhausted,
    Aborted,
    Unavailable,
    Internal,
}

impl KmsError {
    /// Face and ErrorInfo's reason, side by side.
    const fn table(&self) -> (Face, &'static str) {
        match self {
            Self::PermissionDenied => (Face::PermissionDenied, "PERMISSION_DENIED"),
            Self::InvalidField(_) => (Face::InvalidArgument, "INVALID_FIELD"),
            Self::InvalidCiphertext => (Face::InvalidArgument, "INVALID_CIPHERTEXT"),
            Self::IncorrectKey => (Face::InvalidArgument, "INCORRECT_KEY"),
            Self::InvalidKeyUsage => (Face::InvalidArgument, "INVALID_KEY_USAGE"),
            Self::UnsupportedAlgorithm => (Face::InvalidArgument, "UNSUPPORTED_ALGORITHM"),
            Self::InvalidMarker => (Face::InvalidArgument, "INVALID_MARKER"),
            Self::KeyNotFound => (Face::NotFound, "KEY_NOT_FOUND"),
            Self::AliasNotFound => (Face::NotFound, "ALIAS_NOT_FOUND"),
            Self::GrantNotFound => (Face::NotFound, "GRANT_NOT_FOUND"),
            Self::AliasExists => (Face::AlreadyExists, "ALIAS_EXISTS"),
            Self::RequestIdReused => (Face::AlreadyExists, "REQUEST_ID_REUSED"),
            Self::KeyDisabled => (Face::FailedPrecondition, "KEY_DISABLED"),
            Self::KeyPendingDeletion => (Face::FailedPrecondition, "KEY_PENDING_DELETION"),
            Self::KeyDeleted => (Face::FailedPrecondition, "KEY_DELETED"),
            Self::KeyState => (Face::FailedPrecondition, "KEY_STATE"),
            Self::ProtectionLevelUnavailable => (Face::FailedPrecondition, "PROTECTION_LEVEL_UNAVAILABLE"),
            Self::UnsupportedByBoundary => (Face::FailedPrecondition, "UNSUPPORTED_BY_BOUNDARY"),
            Self::InvocationsExhausted => (Face::FailedPrecondition, "INVOCATIONS_EXHAUSTED"),
            Self::LimitExceeded => (Face::ResourceExhausted, "LIMIT_EXCEEDED"),
            Self::Busy => (Face::ResourceExhausted, "BUSY"),
            Self::Conflict => (Face::Aborted, "CONFLICT"),
            Self::BoundaryUnavailable(_) => (Face::Unavailable, "BOUNDARY_UNAVAILABLE"),
            Self::StorageUnavailable(_) => (Face::Unavailable, "STORAGE_UNAVAILABLE"),
            Self::AuditUnavailable => (Face::Unavailable, "AUDIT_UNAVAILABLE"),
            Self::ReceiptUnavailable => (Face::Unavailable, "RECEIPT_UNAVAILABLE"),
            Self::Sealed => (Face::Unavailable, "SEALED"),
            Self::Ack(refusal @ AckRefusal::NoWitness) => (Face::FailedPrecondition, refusal.reason()),
            Self::Ack(refusal @ AckRefusal::SetBack) => (Face::Unavailable, refusal.reason()),
            Self::DataAltered(_) => (Face::Internal, "DATA_ALTERED"),
            Self::Internal(_) => (Face::Internal, "INTERNAL"),
        }
    }

    pub const fn face(&self) -> Face {
        self.table().0
    }

    /// ErrorInfo's reason, of the closed list.
    pub const fn reason(&self) -> &'static str {
        self.table().1
    }

    /// The request's field that is at fault.
    pub fn field(&self) -> Option<&'static str> {
        if let Self::InvalidField(field) = self {
            return Some(field);
        }
        (*self == Self::InvalidMarker).then_some("marker")
    }

    /// When the same request may succeed without a change: RetryInfo's delay.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.face() {
            Face::Unavailable if matches!(self, Self::ReceiptUnavailable | Self::Sealed | Self::Ack(_)) => None,
            Face::Unavailable => Some(Duration::from_secs(1)),
            Face::Aborted => Some(Duration::from_millis(50)),
            Face::ResourceExhausted if *self == Self::Busy => Some(Duration::from_millis(100)),
            Face::PermissionDenied
            | Face::InvalidArgument
            | Face::NotFound
            | Face::AlreadyExists
            | Face::FailedPrecondition
            | Face::ResourceExhausted
            | Face::Internal => None,
        }
    }

    /// What the boundary's refusal of a request with our own stored token means.
    pub(crate) fn of_boundary(error: HsmError) -> Self {
        match error {
            HsmError::Rejected | HsmError::MalformedBlob | HsmError::IncorrectKey => Self::InvalidCiphertext,
            HsmError::TokenRejected => Self::DataAltered("the boundary rejected a key token".to_owned()),
            HsmError::UsageForbidden => Self::InvalidKeyUsage,
            HsmError::Unsupported => Self::UnsupportedByBoundary,
            HsmError::KeyExpired => Self::KeyState,
            HsmError::Busy => Self::Busy,
            HsmError::InvocationsExhausted => Self::InvocationsExhausted,
            HsmError::StateForbidden
            | HsmError::ErrorState
            | HsmError::Restarted
            | HsmError::Unavailable
            | HsmError::StateNotDurable
            | HsmError::BackupRequired
            | HsmError::Protocol
            | HsmError::TimedOut => Self::BoundaryUnavailable(error),
            HsmError::OutOfRange => Self::Internal("the boundary found a length or count out of range"),
            HsmError::RoleForbidden => Self::Internal("the boundary's channel has the wrong role"),
            HsmError::CheckpointForked | HsmError::SharesRejected => Self::Internal("the boundary refused unasked"),
        }
    }
}

impl From<Refusal> for KmsError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Disabled => Self::KeyDisabled,
            Refusal::PendingDeletion => Self::KeyPendingDeletion,
            Refusal::Deleted => Self::KeyDeleted,
            Refusal::State => Self::KeyState,
            Refusal::Usage => Self::InvalidKeyUsage,
            Refusal::TooManyVersions => Self::LimitExceeded,
        }
    }
}

impl From<AuditError> for KmsError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Unavailable => Self::AuditUnavailable,
            AuditError::Busy => Self::Busy,
            AuditError::Unsigned => Self::ReceiptUnavailable,
        }
    }
}

impl From<StorageError> for KmsError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Damaged(_) => Self::DataAltered(error.to_string()),
            StorageError::TooLarge => Self::Internal("a path, value, batch or page is beyond the store's limits"),
            StorageError::Unavailable
            | StorageError::Full
            | StorageError::Format { .. }
            | StorageError::Held
            | StorageError::TargetExists => Self::StorageUnavailable(error),
        }
    }
}

impl From<BarrierError> for KmsError {
    fn from(error: BarrierError) -> Self {
        match error {
            BarrierError::Storage(error) => error.into(),
            BarrierError::Altered(_) | BarrierError::UnknownEpoch { .. } => Self::DataAltered(error.to_string()),
            BarrierError::MalformedKeyring => Self::Internal("the barrier keyring is malformed"),
            BarrierError::Randomness => Self::Internal("the random generator failed"),
            BarrierError::Closed => Self::Sealed,
        }
    }
}

impl From<ChangeError> for KmsError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Conflict(_) => Self::Conflict,
            ChangeError::Unknown => Self::StorageUnavailable(StorageError::Unavailable),
            ChangeError::Barrier(error) => error.into(),
            ChangeError::Audit(error) => error.into(),
        }
    }
}
