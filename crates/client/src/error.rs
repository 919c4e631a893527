//! What went wrong, and what to do next.

use crate::Repeat;
use crate::connect::Failure;
use crate::stream::StreamError;
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Every way in which a call can fail.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{address}` is not an address: expected https://HOST:PORT")]
    Address { address: String },
    #[error("`{address}` is not on this machine: plaintext goes to loopback only")]
    PlaintextElsewhere { address: String },
    #[error("the token is empty or holds other than visible ASCII characters")]
    Token,
    #[error("{} does not hold {what} in PEM", path.display())]
    Pem { path: PathBuf, what: &'static str, source: rustls_pki_types::pem::Error },
    #[error("no certificate authorities were given, and this system has no bundle of them")]
    NoAuthorities,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[source] rustls::Error),
    /// TCP did not get there.
    #[error("cannot reach {address}: {reason}")]
    Unreachable { address: String, reason: String, sent: Sent },
    /// TCP got there, and the peers did not trust each other.
    #[error("{address} is not trusted: {reason}")]
    Untrusted { address: String, reason: String },
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the backup broke off or was altered on the way")]
    BackupNotWhole,
    /// What a login needs cannot be read.
    #[error("{}: {reason}", path.display())]
    Input { path: PathBuf, reason: String },
    /// The cloud did not tell who this is.
    #[error("{cloud} gives no identity: {reason}")]
    Cloud { cloud: &'static str, reason: String },
    #[error("the wrapping token has done its work: another one is needed to log in")]
    Spent,
    /// An alarm.
    #[error(
        "it was wrapped at `{found}`, not at `{expected}`: somebody may have unwrapped it before; it was left unfetched"
    )]
    WrappedElsewhere { found: String, expected: String },
    #[error("a secret that is sent as text is not UTF-8")]
    NotText,
    #[error("the server's answer is not what it should be")]
    Answer,
    #[error("the answer came without a lease")]
    NoLease,
}

/// Whether a request may have reached the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    No,
    Perhaps,
}

/// A server's refusal, as its ErrorInfo tells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: Code,
    /// One for each kind of failure, for programs; empty where the server gave none.
    pub reason: String,
    /// The request's field at fault, where there is one.
    pub field: Option<String>,
    /// For people.
    pub message: String,
    /// The server asks to wait this long before the next attempt.
    pub retry_after: Option<Duration>,
    /// Find the cause in the server's log by it.
    pub request_id: Option<String>,
}

impl Error {
    /// What a person can do about it; empty where the message says all.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Address { .. } => "write it as https://HOST:PORT",
            Self::PlaintextElsewhere { .. } => "use https://",
            Self::Token => "a token is one line without spaces; make a new one with `strongroom token create`",
            Self::Pem { .. } => "check that the path is right and the file PEM",
            Self::NoAuthorities => {
                "name the PEM file of the CA that signed the server's certificate (STRONGROOM_CACERT)"
            }
            Self::Tls(_) => "check that the certificate and the key belong together",
            Self::Unreachable { .. } => "is the server running, and is the address (STRONGROOM_ADDR) right?",
            Self::Untrusted { .. } => {
                "name the CA of the server's certificate (STRONGROOM_CACERT; `strongroom dev` keeps it in tls/ca.pem of its \
                 data directory), and the host as the certificate does"
            }
            Self::Refused(refusal) => refusal.advice(),
            Self::Stream(error) => error.advice(),
            Self::BackupNotWhole => "make it again",
            Self::Input { .. } => "is the path right, and may only its owner read it?",
            Self::Cloud { .. } => {
                "is this a machine of that cloud, with an identity? From a container, EC2's metadata needs a hop limit of 2"
            }
            Self::Spent => "have another SecretID wrapped, and put its wrapping token into the same file",
            Self::WrappedElsewhere { .. } => "raise the alarm",
            Self::NotText => "write the secret as UTF-8",
            Self::Answer => "is this the address of a Strongroom server, and of this version?",
            Self::NoLease => "read it without a lease",
        }
    }

    /// What the server said, where it did.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }

    /// The same call may succeed later without a change.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BackupNotWhole | Self::Cloud { .. } => true,
            Self::Refused(refusal) => {
                let waiting = matches!(
                    refusal.code,
                    Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded
                );
                waiting && !CARRIED_OUT.contains(&refusal.reason.as_str())
            }
            Self::Address { .. }
            | Self::PlaintextElsewhere { .. }
            | Self::Token
            | Self::Pem { .. }
            | Self::NoAuthorities
            | Self::Tls(_)
            | Self::Untrusted { .. }
            | Self::Input { .. }
            | Self::Spent
            | Self::WrappedElsewhere { .. }
            | Self::NotText
            | Self::Answer
            | Self::NoLease
            | Self::Stream(_) => false,
        }
    }

    /// Waiting may help, and asking again does no harm.
    pub(crate) fn may_be_repeated(&self, repeat: Repeat) -> bool {
        // told to wait: nothing was done
        let turned_away = self.refusal().is_some_and(|refusal| refusal.code == Code::ResourceExhausted);
        match repeat {
            Repeat::Safe => self.is_transient(),
            Repeat::Never => turned_away || matches!(self, Self::Unreachable { sent: Sent::No, .. }),
        }
    }

    pub(crate) fn is_forbidden(&self) -> bool {
        self.refusal().is_some_and(|refusal| matches!(refusal.code, Code::PermissionDenied | Code::Unauthenticated))
    }

    /// TLS came to nothing, and nothing was sent.
    pub(crate) fn is_untrusted(&self) -> bool {
        matches!(self, Self::Untrusted { .. })
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.code == Code::NotFound)
    }

    pub(crate) fn from_transport(address: String, error: tonic::transport::Error) -> Self {
        match failure(&error) {
            Some(tls @ (Failure::Tls(_) | Failure::NotHttp2)) => Self::Untrusted { address, reason: tls.to_string() },
            Some(tcp @ (Failure::Tcp(_) | Failure::NotLoopback | Failure::TimedOut(_))) => {
                Self::Unreachable { address, reason: tcp.to_string(), sent: Sent::No }
            }
            None => Self::Unreachable { address, reason: error.to_string(), sent: Sent::Perhaps },
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        if let Some(failure) = std::error::Error::source(&status).and_then(failure) {
            let (address, reason) = ("the server".to_owned(), failure.to_string());
            return Self::Unreachable { address, reason, sent: Sent::No };
        }
        let info = status.get_details_error_info();
        let retry = status.get_details_retry_info();
        let request_id = status.metadata().get("x-request-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let timed_out = std::error::Error::source(&status).is_some_and(|source| source.is::<tonic::TimeoutExpired>());
        let code = if timed_out { Code::DeadlineExceeded } else { status.code() };
        let said = if timed_out { "" } else { status.message() };
        Self::Refused(Box::new(Refusal {
            code,
            field: info.as_ref().and_then(|info| info.metadata.get("field").cloned()).filter(|field| !field.is_empty()),
            reason: info.map(|info| info.reason).unwrap_or_default(),
            message: if said.is_empty() { code.description().to_owned() } else { said.to_owned() },
            retry_after: retry.and_then(|retry| retry.retry_delay),
            request_id,
        }))
    }
}

impl Refusal {
    /// Programs ask for the reason; where the server gave none, for the code's name.
    pub fn reason_or_code(&self) -> &str {
        if self.reason.is_empty() { code_name(self.code) } else { &self.reason }
    }

    pub fn code_name(&self) -> &'static str {
        code_name(self.code)
    }

    /// What a person can do about it.
    pub fn advice(&self) -> &'static str {
        REASONS
            .iter()
            .find(|(reason, _)| *reason == self.reason)
            .map_or_else(|| by_code(self.code), |(_, advice)| advice)
    }
}

/// Finds our connector's failure in the chain that tonic and hyper made around it.
fn failure<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Failure> {
    std::iter::successors(Some(error), |error| error.source()).find_map(<dyn std::error::Error>::downcast_ref)
}

/// The call was carried out, or may have been: it may not be made again.
const CARRIED_OUT: [&str; 4] = [RECEIPT_UNAVAILABLE, AUDIT_UNSIGNED, AUDIT_UNWITNESSED, AUDIT_LOG_SET_BACK];
const RECEIPT_UNAVAILABLE: &str = "RECEIPT_UNAVAILABLE";
const AUDIT_UNSIGNED: &str = "AUDIT_UNSIGNED";
const AUDIT_UNWITNESSED: &str = "AUDIT_UNWITNESSED";
const AUDIT_LOG_SET_BACK: &str = "AUDIT_LOG_SET_BACK";

const REASONS: [(&str, &str); 36] = [
    ("INVALID_FIELD", "correct the field that is named"),
    ("INVALID_CIPHERTEXT", "the blob was altered, or the encryption context is not the one that it was made with"),
    ("INCORRECT_KEY", "leave the key id out: the blob names its key itself"),
    ("INVALID_KEY_USAGE", "choose a key whose key_usage allows this (`kms describe-key`)"),
    ("UNSUPPORTED_ALGORITHM", "choose one of the key's algorithms (`kms describe-key`)"),
    ("INVALID_MARKER", "begin again without a marker"),
    ("KEY_NOT_FOUND", "`kms list-keys` shows the keys that there are"),
    ("ALIAS_NOT_FOUND", "`kms list-aliases` shows the aliases that there are"),
    ("GRANT_NOT_FOUND", "`kms list-grants` shows the key's grants"),
    ("POLICY_NOT_FOUND", "`policy list` shows the policies that there are"),
    ("ROLE_NOT_FOUND", "`auth cert list` shows the roles that there are"),
    ("TOKEN_NOT_FOUND", "the token has ended, or the accessor is wrong"),
    ("TOKEN_NOT_RENEWABLE", "make another token: this one was made without renewals"),
    ("TOKEN_STATELESS", "a stateless token ends by itself, or with its parent"),
    ("ALIAS_EXISTS", "choose another name, or point this one elsewhere with `kms update-alias`"),
    ("REQUEST_ID_REUSED", "choose another client request id: this one stands for another request"),
    ("KEY_DISABLED", "`kms enable-key` makes it usable"),
    ("KEY_PENDING_DELETION", "`kms cancel-key-deletion`, then `kms enable-key`, makes it usable"),
    ("KEY_DELETED", "the key is gone for good"),
    ("KEY_STATE", "`kms describe-key` shows the key's state"),
    ("PROTECTION_LEVEL_UNAVAILABLE", "`operator status` shows the protection levels that the boundary offers"),
    ("UNSUPPORTED_BY_BOUNDARY", "`operator status` shows what the boundary offers"),
    ("INVOCATIONS_EXHAUSTED", "`kms rotate-key` gives the key a new version"),
    ("LIMIT_EXCEEDED", "ask for less at once"),
    ("BUSY", "try again in a moment"),
    (
        "RATE_LIMITED",
        "too many calls without a valid token came from this address: check the token, and try again later",
    ),
    ("CONFLICT", "somebody else changed it at the same moment: look again, then repeat"),
    (
        "BOUNDARY_UNAVAILABLE",
        "the boundary process is away: try again; the operator finds its state in `operator status`",
    ),
    ("STORAGE_UNAVAILABLE", "the server's storage is away or full: try again, or tell the operator"),
    ("AUDIT_UNAVAILABLE", "the audit log cannot be written, so nothing is served: tell the operator"),
    (
        RECEIPT_UNAVAILABLE,
        "do not repeat it: it was carried out and recorded; `strongroom audit prove` proves its entry when the boundary is back",
    ),
    (
        AUDIT_UNSIGNED,
        "find out first whether it was carried out: it is recorded, but its signed checkpoint did not come in time",
    ),
    (AUDIT_UNWITNESSED, "find out first whether it was carried out: it is recorded, but no witness answered in time"),
    (AUDIT_LOG_SET_BACK, "tell the operator: a witness has seen more of the audit log than there is"),
    (
        "AUDIT_NO_WITNESS",
        "the operator configures a witness (`[[audit.witness]]`), or the policy asks for less (`audit_ack`)",
    ),
    ("DATA_ALTERED", "stored data was altered: tell the operator, with the request id"),
];

fn by_code(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => "the token is missing, ended or of another server: check STRONGROOM_TOKEN",
        Code::PermissionDenied => "the token's policies do not allow this, or what is named does not exist",
        Code::Unavailable => "try again in a moment",
        Code::DeadlineExceeded => "try again, or allow more time with --timeout",
        Code::ResourceExhausted => "ask for less at once, or try again in a moment",
        Code::Aborted => "look again, then repeat",
        Code::Unimplemented | Code::Unknown => "is this the address of a Strongroom server, and of this version?",
        Code::Internal | Code::DataLoss => "tell the operator, with the request id",
        Code::NotFound => "`list` shows what is there; a deleted version comes back with `kv undelete`",
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange => "",
    }
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_tells_reason_field_and_what_to_do() {
        let mut details = ErrorDetails::new();
        details.set_error_info(
            "INVALID_FIELD",
            "strongroom",
            HashMap::from([("field".to_owned(), "limit".to_owned())]),
        );
        details.set_retry_info(Some(Duration::from_secs(2)));
        let mut status = Status::with_error_details(Code::InvalidArgument, "limit is 1 to 1000", details);
        status.metadata_mut().insert("x-request-id", "r-1".parse().unwrap());
        let Error::Refused(refusal) = Error::from(status) else { panic!("a refusal") };
        let expected = Refusal {
            code: Code::InvalidArgument,
            reason: "INVALID_FIELD".into(),
            field: Some("limit".into()),
            message: "limit is 1 to 1000".into(),
            retry_after: Some(Duration::from_secs(2)),
            request_id: Some("r-1".into()),
        };
        assert_eq!(*refusal, expected);
        assert_eq!(refusal.advice(), "correct the field that is named");
    }

    #[test]
    fn a_bare_status_still_says_what_to_do() {
        for (status, code, message) in [
            (Status::permission_denied(""), "PERMISSION_DENIED", Code::PermissionDenied.description()),
            (Status::unauthenticated("no"), "UNAUTHENTICATED", "no"),
            (
                Status::from_error(Box::new(tonic::TimeoutExpired(()))),
                "DEADLINE_EXCEEDED",
                Code::DeadlineExceeded.description(),
            ),
        ] {
            let Error::Refused(refusal) = Error::from(status) else { panic!("a refusal") };
            assert_eq!((refusal.reason_or_code(), refusal.message.as_str()), (code, message));
            assert!(!refusal.advice().is_empty(), "{code}");
        }
    }

    #[test]
    fn waiting_helps_against_some_failures_only() {
        let [receipt, unsigned, unwitnessed, set_back] = CARRIED_OUT.map(|reason| {
            let details = ErrorDetails::with_error_info(reason, "strongroom", HashMap::new());
            Status::with_error_details(Code::Unavailable, "", details)
        });
        for (status, transient) in [
            (Status::unavailable(""), true),
            (Status::resource_exhausted(""), true),
            (Status::aborted(""), true),
            (Status::invalid_argument(""), false),
            (Status::permission_denied(""), false),
            (receipt, false),
            (unsigned, false),
            (unwitnessed, false),
            (set_back, false),
        ] {
            assert_eq!(Error::from(status.clone()).is_transient(), transient, "{status:?}");
        }
    }
}
