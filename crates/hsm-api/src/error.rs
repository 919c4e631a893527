//! What a boundary may answer instead of a result. Closed; carries nothing from inside.

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $variant:ident = $code:literal, $text:literal;)*) => {
        /// Every way in which a service can refuse or fail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        #[repr(u8)]
        pub enum HsmError {
            $($(#[doc = $doc])* #[error($text)] $variant = $code,)*
        }

        impl HsmError {
            /// The number on the wire.
            pub const fn code(self) -> u8 {
                self as u8
            }

            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// All variants, for tables.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }
    };
}

codes! {
    /// Wrong key, context or place, or altered: one answer for all of them.
    Rejected = 1, "the ciphertext was rejected";
    /// Not a blob of the format.
    MalformedBlob = 2, "the ciphertext is malformed";
    /// The key token was not made by this boundary, or was altered.
    TokenRejected = 3, "the key token was rejected";
    /// Blob and token name different keys, versions or domains.
    IncorrectKey = 4, "the ciphertext belongs to another key";
    /// The token's usage does not cover the service.
    UsageForbidden = 5, "the key's usage does not allow this service";
    /// This module lacks the service, key spec or algorithm; its status says so.
    Unsupported = 6, "the module does not offer this service, key spec or algorithm";
    /// A length or count is outside the service's limits.
    OutOfRange = 7, "a length or count is outside the limits";
    /// The key's not-after has passed.
    KeyExpired = 8, "the key has expired";
    /// The channel's role may not ask for this service.
    RoleForbidden = 9, "the channel's role does not allow this service";
    /// The module's state does not offer this service.
    StateForbidden = 10, "the module's state does not allow this service";
    /// A self-test failed: nothing but status until a restart.
    ErrorState = 11, "the module is in the error state";
    /// The module restarted while the request was out; it may have been carried out.
    Restarted = 12, "the module restarted while the request was out";
    /// The module cannot be reached.
    Unavailable = 13, "the module is unavailable, retry later";
    /// The module is at its capacity.
    Busy = 14, "the module is at capacity, retry later";
    /// The key version has used up its invocations (SP 800-38D §8.3): rotate.
    InvocationsExhausted = 15, "the key version has used up its invocations, rotate the key";
    /// The consistency proof does not lead from the last signed checkpoint to this one.
    CheckpointForked = 16, "the checkpoint does not extend the last one signed";
    /// Too few shares, or shares that do not belong together.
    SharesRejected = 17, "the backup package or its shares were rejected";
    /// Nothing goes on before a backup of the domain key exists.
    BackupRequired = 18, "a backup of the domain key is required first";
    /// Durable state could not be written.
    StateNotDurable = 19, "the module could not make its state durable";
    /// The peer sent what the protocol does not allow.
    Protocol = 20, "the message is not of the boundary protocol";
    /// The service took longer than the caller waits.
    TimedOut = 21, "the module did not answer in time";
}

impl HsmError {
    /// The same request may succeed later without a change.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Restarted | Self::Unavailable | Self::Busy | Self::TimedOut | Self::StateForbidden)
    }
}
