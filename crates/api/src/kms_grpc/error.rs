//! What a caller is told of a failure: one status, one reason.
//!
//! Always: google.rpc.ErrorInfo of domain `strongroom`; google.rpc.BadRequest beside it where a field is at fault;
//! google.rpc.RetryInfo where the same request may succeed soon.
//! Never: a cause. UNAUTHENTICATED and PERMISSION_DENIED carry nothing but their names.

use audit::{Ack, AckRefusal};
use identity::IdentityError;
use kms::KmsError;
use proto::kms::ItemError;
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A failure as the caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
    field: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) const fn new(code: Code, reason: &'static str, message: &'static str) -> Self {
        let retry_after = if matches!(code, Code::Unavailable) { Some(RETRY_AFTER) } else { None };
        Self { code, reason, field: None, message: Cow::Borrowed(message), retry_after }
    }

    fn after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    /// INVALID_FIELD.
    pub(crate) fn field(field: impl Into<Cow<'static, str>>) -> Self {
        let field = field.into();
        let message = format!("the field `{field}` is missing, malformed or out of range").into();
        Self { code: Code::InvalidArgument, reason: "INVALID_FIELD", field: Some(field), message, retry_after: None }
    }

    /// The same, its field one of the message that stands in `outer`.
    pub(crate) fn within(self, outer: &str) -> Self {
        self.field.as_ref().map(|field| Self::field(format!("{outer}.{field}"))).unwrap_or(self)
    }

    pub(crate) const UNAUTHENTICATED: Self = Self::new(Code::Unauthenticated, "UNAUTHENTICATED", "unauthenticated");
    pub(crate) const DENIED: Self = Self::new(Code::PermissionDenied, "PERMISSION_DENIED", "permission denied");
    pub(crate) const DEADLINE: Self = Self::new(
        Code::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
        "the deadline has passed; a change that was under way may have been made",
    );
    pub(crate) const NOT_GRPC: Self =
        Self::new(Code::InvalidArgument, "NOT_GRPC", "not a gRPC request: POST, HTTP/2, application/grpc");
    pub(crate) const UNDECODABLE: Self =
        Self::new(Code::InvalidArgument, "MALFORMED_MESSAGE", "the message cannot be decoded");
    pub(crate) const TOO_LARGE: Self =
        Self::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", "the message is larger than this method takes");
    pub(crate) const UNIMPLEMENTED: Self =
        Self::new(Code::Unimplemented, "UNIMPLEMENTED", "no such method, or an encoding that is not taken");
    pub(crate) const METHOD_NOT_ALLOWED: Self =
        Self::new(Code::Unimplemented, "METHOD_NOT_ALLOWED", "this is a page: GET");
    pub(crate) const SERVICE_UNKNOWN: Self = Self::new(Code::NotFound, "SERVICE_UNKNOWN", "no such service");
    pub(crate) const ABANDONED: Self = Self::new(Code::Cancelled, "CANCELLED", "the request ended before it was whole");
    pub(crate) const INTERNAL: Self = Self::new(Code::Internal, "INTERNAL", "an internal error; the log tells more");
    pub(crate) const AUDIT_UNAVAILABLE: Self =
        Self::new(Code::Unavailable, "AUDIT_UNAVAILABLE", "the audit log cannot be written");
    /// Without RetryInfo: the same call again would be carried out again.
    pub(crate) const RECEIPT_UNAVAILABLE: Self = Self {
        code: Code::Unavailable,
        reason: "RECEIPT_UNAVAILABLE",
        field: None,
        message: Cow::Borrowed(
            "the call was carried out and recorded, but there is no receipt: its signature did not come",
        ),
        retry_after: None,
    };
    /// Nothing was done.
    const AUDIT_NO_WITNESS: Self = Self::new(
        Code::FailedPrecondition,
        AckRefusal::NoWitness.reason(),
        "a policy demands that a witness cosigns the record, and this server has none configured",
    );
    /// Without RetryInfo: an operator must look.
    const AUDIT_LOG_SET_BACK: Self = Self::final_unavailable(
        AckRefusal::SetBack.reason(),
        "a witness has seen more of the audit log than there is; what this call was to do may have been done",
    );
    /// Without RetryInfo: the same call again would be carried out again.
    const AUDIT_UNSIGNED: Self = Self::final_unavailable(
        "AUDIT_UNSIGNED",
        "the outcome is recorded, but no signed checkpoint covers the record yet; what was asked for may have been done",
    );
    /// Likewise.
    const AUDIT_UNWITNESSED: Self = Self::final_unavailable(
        "AUDIT_UNWITNESSED",
        "the outcome is recorded, but not yet witnessed; what was asked for may have been done",
    );

    /// What the policies demanded did not come in the call's time.
    pub(crate) fn not_acknowledged(ack: Ack) -> Self {
        match ack {
            Ack::Durable | Ack::Checkpoint => Self::AUDIT_UNSIGNED,
            Ack::Witness => Self::AUDIT_UNWITNESSED,
        }
    }

    const fn final_unavailable(reason: &'static str, message: &'static str) -> Self {
        let (code, message) = (Code::Unavailable, Cow::Borrowed(message));
        Self { code, reason, field: None, message, retry_after: None }
    }

    /// Without RetryInfo: officers must unseal.
    pub(crate) const SEALED: Self = Self::final_unavailable("SEALED", "this server is sealed; nothing was done");
    pub(crate) const BUSY: Self = Self {
        code: Code::ResourceExhausted,
        reason: "BUSY",
        field: None,
        message: Cow::Borrowed("at capacity, retry later"),
        retry_after: Some(RETRY_WHEN_BUSY),
    };
    /// Of those who were not recognised.
    pub(crate) const RATE_LIMITED: Self = Self {
        code: Code::ResourceExhausted,
        reason: "RATE_LIMITED",
        field: None,
        message: Cow::Borrowed("more unauthenticated requests than one address may make, retry later"),
        retry_after: Some(RETRY_AFTER),
    };

    pub(crate) fn status(&self) -> Status {
        if matches!(self.code, Code::Unauthenticated | Code::PermissionDenied) {
            return Status::new(self.code, self.message.clone());
        }
        let field = self.field.iter().map(|field| ("field".to_owned(), field.to_string()));
        let mut details = ErrorDetails::with_error_info(self.reason, DOMAIN, field.collect::<HashMap<_, _>>());
        if let Some(field) = &self.field {
            details.add_bad_request_violation(field.to_string(), self.message.to_string());
        }
        if self.retry_after.is_some() {
            details.set_retry_info(self.retry_after);
        }
        Status::with_error_details(self.code, self.message.clone(), details)
    }

    /// The same, of one item of a batch.
    pub(crate) fn item(&self) -> ItemError {
        ItemError {
            code: self.code.into(),
            reason: self.reason.to_owned(),
            message: self.message.to_string(),
            field: self.field.as_deref().unwrap_or_default().to_owned(),
        }
    }

    /// As a domain chose it. What is in an error's text stays in the log, but where the request was at fault.
    fn chosen(code: Code, reason: &'static str, field: Option<&'static str>, text: String) -> Self {
        if code == Code::Unauthenticated {
            Self::UNAUTHENTICATED
        } else if code == Code::PermissionDenied {
            Self::DENIED
        } else if code == Code::Internal {
            Self { reason, ..Self::INTERNAL }
        } else if reason == Self::RECEIPT_UNAVAILABLE.reason {
            Self::RECEIPT_UNAVAILABLE
        } else if reason == Self::AUDIT_NO_WITNESS.reason {
            Self::AUDIT_NO_WITNESS
        } else if reason == Self::AUDIT_LOG_SET_BACK.reason {
            Self::AUDIT_LOG_SET_BACK
        } else if reason == Self::SEALED.reason {
            Self::SEALED
        } else if code == Code::Unavailable {
            Self::new(code, reason, "something that this needs is away, retry later")
        } else if reason == Self::BUSY.reason {
            Self::BUSY
        } else {
            Self { field: field.map(Cow::Borrowed), message: text.into(), ..Self::new(code, reason, "") }
        }
    }
}

impl From<AckRefusal> for Refusal {
    fn from(refusal: AckRefusal) -> Self {
        match refusal {
            AckRefusal::NoWitness => Self::AUDIT_NO_WITNESS,
            AckRefusal::SetBack => Self::AUDIT_LOG_SET_BACK,
        }
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        use identity::Face;
        let code = match error.face() {
            Face::Unauthenticated => Code::Unauthenticated,
            Face::PermissionDenied => Code::PermissionDenied,
            Face::InvalidArgument => Code::InvalidArgument,
            Face::NotFound => Code::NotFound,
            Face::ResourceExhausted => Code::ResourceExhausted,
            Face::FailedPrecondition => Code::FailedPrecondition,
            Face::Aborted => Code::Aborted,
            Face::Unavailable => Code::Unavailable,
            Face::Internal => Code::Internal,
        };
        Self::chosen(code, error.reason(), error.field(), error.to_string())
    }
}

impl From<KmsError> for Refusal {
    fn from(error: KmsError) -> Self {
        use kms::Face;
        let code = match error.face() {
            Face::PermissionDenied => Code::PermissionDenied,
            Face::InvalidArgument => Code::InvalidArgument,
            Face::NotFound => Code::NotFound,
            Face::AlreadyExists => Code::AlreadyExists,
            Face::FailedPrecondition => Code::FailedPrecondition,
            Face::ResourceExhausted => Code::ResourceExhausted,
            Face::Aborted => Code::Aborted,
            Face::Unavailable => Code::Unavailable,
            Face::Internal => Code::Internal,
        };
        let refusal = Self::chosen(code, error.reason(), error.field(), error.to_string());
        error.retry_after().map_or(refusal.clone(), |delay| refusal.after(delay))
    }
}

const DOMAIN: &str = "strongroom";
/// A boundary or a server that is started again serves within 2 s.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_WHEN_BUSY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_follow_the_kind_of_failure() {
        for (refusal, reason, field, retry) in [
            (Refusal::field("key_id"), Some("INVALID_FIELD"), Some("key_id"), false),
            (Refusal::AUDIT_UNAVAILABLE, Some("AUDIT_UNAVAILABLE"), None, true),
            (Refusal::RECEIPT_UNAVAILABLE, Some("RECEIPT_UNAVAILABLE"), None, false),
            (Refusal::from(KmsError::ReceiptUnavailable), Some("RECEIPT_UNAVAILABLE"), None, false),
            (Refusal::SEALED, Some("SEALED"), None, false),
            (Refusal::from(KmsError::Sealed), Some("SEALED"), None, false),
            (Refusal::from(IdentityError::Sealed), Some("SEALED"), None, false),
            (Refusal::from(KmsError::Ack(AckRefusal::NoWitness)), Some("AUDIT_NO_WITNESS"), None, false),
            (Refusal::from(IdentityError::Ack(AckRefusal::SetBack)), Some("AUDIT_LOG_SET_BACK"), None, false),
            (Refusal::from(KmsError::Ack(AckRefusal::SetBack)), Some("AUDIT_LOG_SET_BACK"), None, false),
            (Refusal::not_acknowledged(Ack::Checkpoint), Some("AUDIT_UNSIGNED"), None, false),
            (Refusal::not_acknowledged(Ack::Witness), Some("AUDIT_UNWITNESSED"), None, false),
            (Refusal::BUSY, Some("BUSY"), None, true),
            (Refusal::RATE_LIMITED, Some("RATE_LIMITED"), None, true),
            (Refusal::INTERNAL, Some("INTERNAL"), None, false),
            (Refusal::UNAUTHENTICATED, None, None, false),
            (Refusal::DENIED, None, None, false),
        ] {
            let status = refusal.status();
            let details = status.get_error_details();
            let info = details.error_info();
            assert_eq!(info.map(|info| info.reason.as_str()), reason, "{refusal:?}");
            assert!(info.is_none_or(|info| info.domain == "strongroom"));
            assert_eq!(info.and_then(|info| info.metadata.get("field")).map(String::as_str), field);
            assert_eq!(details.bad_request().map(|bad| bad.field_violations[0].field.as_str()), field);
            assert_eq!(details.retry_info().is_some(), retry, "{refusal:?}");
        }
    }

    #[test]
    fn what_happened_inside_stays_inside() {
        for refusal in [
            Refusal::from(IdentityError::Altered("tenant/path".into())),
            IdentityError::Internal("invariant").into(),
            IdentityError::Unauthenticated(identity::Cause::TokenExpired).into(),
            KmsError::DataAltered("tenant/path".into()).into(),
            KmsError::Internal("invariant").into(),
            KmsError::BoundaryUnavailable(hsm_api::HsmError::ErrorState).into(),
        ] {
            let status = refusal.status();
            for word in ["tenant", "invariant", "xpired", "error state"] {
                assert!(!status.message().contains(word), "{status:?}");
            }
        }
    }
}
