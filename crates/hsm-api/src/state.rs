//! Which service a role may ask for in which state.

/// The module's finite states (modelled on FIPS 140-3 / ISO/IEC 19790 §7.11.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ModuleState {
    /// No domain key yet.
    Uninitialised = 1,
    /// A sealed domain key, and no unlock secret yet.
    Locked = 2,
    Operational = 3,
    /// A self-test failed. Only status; left by a restart.
    Error = 4,
}

/// What a channel may do; bound to its pinned public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// The server: data path.
    User = 1,
    /// Administration.
    Officer = 2,
    /// Reads status and counters.
    Auditor = 3,
}

macro_rules! services {
    ($($variant:ident = $code:literal, $name:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Service {
            $($variant = $code,)*
        }

        impl Service {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub const fn code(self) -> u8 {
                self as u8
            }

            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

services! {
    Status = 1, "status";
    GenerateKey = 2, "generate-key";
    GenerateDataKeys = 3, "generate-data-keys";
    Encrypt = 4, "encrypt";
    Decrypt = 5, "decrypt";
    ReEncrypt = 6, "re-encrypt";
    Sign = 7, "sign";
    PublicKey = 8, "public-key";
    Mac = 9, "mac";
    Random = 10, "random";
    SystemSeal = 11, "system-seal";
    SystemOpen = 12, "system-open";
    SignCheckpoint = 13, "sign-checkpoint";
    Counters = 14, "counters";
    Rewrap = 15, "rewrap";
    SignBatch = 16, "sign-batch";
    Initialise = 32, "initialise";
    Enrol = 33, "enrol";
    Backup = 34, "backup";
    Restore = 35, "restore";
    RotateDomain = 36, "rotate-domain";
    Zeroise = 37, "zeroise";
}

/// The table. Both boundary processes ask it before they touch a request.
pub const fn allowed(service: Service, role: Role, state: ModuleState) -> bool {
    use ModuleState::{Error, Locked, Operational, Uninitialised};
    use Role::{Auditor, Officer, User};
    match service {
        Service::Status => true,
        Service::GenerateKey
        | Service::GenerateDataKeys
        | Service::Encrypt
        | Service::Decrypt
        | Service::ReEncrypt
        | Service::Sign
        | Service::Mac
        | Service::Random
        | Service::SystemSeal
        | Service::SystemOpen
        | Service::SignCheckpoint
        | Service::SignBatch
        | Service::Rewrap => matches!((role, state), (User, Operational)),
        Service::PublicKey => matches!((role, state), (User | Auditor, Operational)),
        Service::Counters => matches!(state, Operational),
        Service::Initialise | Service::Restore => matches!((role, state), (Officer, Uninitialised)),
        Service::Enrol => matches!((role, state), (Officer, Uninitialised | Operational)),
        Service::Backup | Service::RotateDomain => matches!((role, state), (Officer, Operational)),
        Service::Zeroise => matches!((role, state), (Officer, Uninitialised | Locked | Operational | Error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_status_and_zeroise_works_outside_its_state() {
        for &service in Service::ALL {
            assert_eq!(Service::from_code(service.code()), Some(service));
            for role in [Role::User, Role::Officer, Role::Auditor] {
                for state in [ModuleState::Locked, ModuleState::Error] {
                    let always = service == Service::Status || (service == Service::Zeroise && role == Role::Officer);
                    assert_eq!(allowed(service, role, state), always, "{service:?} {role:?} {state:?}");
                }
            }
            let admin = service.code() >= Service::Initialise.code();
            assert!(!(admin && allowed(service, Role::User, ModuleState::Operational)), "{service:?}");
        }
    }
}
