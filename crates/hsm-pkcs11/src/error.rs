//! What a module's return value means for us: what to try next, and what the caller may learn.
//!
//! Always: an error that both a caller's garbage and a dying device can cause is ambiguous until a canary has spoken.
//! Never: a return value that reaches the caller.

use cryptoki::error::{Error, RvError};
use hsm_api::HsmError;

/// How a call into the module ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Decided: this is the caller's answer.
    Answer(HsmError),
    /// The module refused what it was given; the session is as before.
    Data,
    /// The session is gone or stuck: a new one, and once more.
    Session,
    /// An object handle is stale: found again by CKA_ID, and once more.
    Handle,
    /// Logged out: the keeper logs in again, and once more.
    Login,
    /// The PIN was refused. It is never tried again by this process.
    Pin,
    /// GENERAL_ERROR and its like: the canary tells.
    Ambiguous,
    /// The device does not work.
    Dead,
}

impl Fault {
    /// The session that gave this answer may be used again.
    pub(crate) const fn is_clean(self) -> bool {
        match self {
            Self::Answer(_) | Self::Data => true,
            Self::Session | Self::Handle | Self::Login | Self::Pin | Self::Ambiguous | Self::Dead => false,
        }
    }
}

impl From<HsmError> for Fault {
    fn from(error: HsmError) -> Self {
        Self::Answer(error)
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        use RvError as Rv;
        let Error::Pkcs11(rv, _) = error else {
            // a module whose answers do not fit the standard's types
            return Self::Ambiguous;
        };
        if matches!(
            rv,
            Rv::EncryptedDataInvalid
                | Rv::EncryptedDataLenRange
                | Rv::DataInvalid
                | Rv::DataLenRange
                | Rv::SignatureInvalid
                | Rv::SignatureLenRange
                | Rv::MechanismInvalid
                | Rv::MechanismParamInvalid
                | Rv::ArgumentsBad
                | Rv::TemplateIncomplete
                | Rv::TemplateInconsistent
                | Rv::AttributeValueInvalid
                | Rv::AttributeTypeInvalid
                | Rv::AttributeReadOnly
                | Rv::AttributeSensitive
                | Rv::KeySizeRange
                | Rv::KeyTypeInconsistent
                | Rv::KeyFunctionNotPermitted
                | Rv::CurveNotSupported
                | Rv::DomainParamsInvalid
                | Rv::FunctionNotSupported
                | Rv::ActionProhibited
        ) {
            Self::Data
        } else if matches!(
            rv,
            Rv::SessionHandleInvalid | Rv::SessionClosed | Rv::OperationActive | Rv::OperationNotInitialized
        ) {
            Self::Session
        } else if matches!(rv, Rv::ObjectHandleInvalid | Rv::KeyHandleInvalid) {
            Self::Handle
        } else if matches!(rv, Rv::UserNotLoggedIn) {
            Self::Login
        } else if matches!(rv, Rv::SessionCount) {
            Self::Answer(HsmError::Busy)
        } else if matches!(
            rv,
            Rv::PinIncorrect
                | Rv::PinInvalid
                | Rv::PinLenRange
                | Rv::PinExpired
                | Rv::PinLocked
                | Rv::UserPinNotInitialized
        ) {
            Self::Pin
        } else if matches!(
            rv,
            Rv::DeviceRemoved
                | Rv::TokenNotPresent
                | Rv::TokenNotRecognized
                | Rv::SlotIdInvalid
                | Rv::CryptokiNotInitialized
                | Rv::HostMemory
                | Rv::DeviceMemory
        ) {
            Self::Dead
        } else {
            // GENERAL_ERROR, FUNCTION_FAILED, DEVICE_ERROR (kryoptic's answer to a tampered token), vendors' own
            Self::Ambiguous
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    #[test]
    fn every_return_value_has_its_consequence() {
        for (rv, fault) in [
            (RvError::EncryptedDataInvalid, Fault::Data),
            (RvError::MechanismParamInvalid, Fault::Data),
            (RvError::OperationActive, Fault::Session),
            (RvError::SessionHandleInvalid, Fault::Session),
            (RvError::ObjectHandleInvalid, Fault::Handle),
            (RvError::UserNotLoggedIn, Fault::Login),
            (RvError::SessionCount, Fault::Answer(HsmError::Busy)),
            (RvError::PinIncorrect, Fault::Pin),
            (RvError::PinLocked, Fault::Pin),
            (RvError::GeneralError, Fault::Ambiguous),
            (RvError::DeviceError, Fault::Ambiguous),
            (RvError::FunctionFailed, Fault::Ambiguous),
            (RvError::TokenNotPresent, Fault::Dead),
            (RvError::CryptokiNotInitialized, Fault::Dead),
        ] {
            assert_eq!(Fault::from(&Error::Pkcs11(rv, Function::Decrypt)), fault, "{rv:?}");
        }
        assert_eq!(Fault::from(&Error::InvalidValue), Fault::Ambiguous);
    }
}
