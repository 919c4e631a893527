//! The module behind the listener: which request waits for which thread.

use crate::Module;
use hsm_api::{HsmError, ModuleState, Reply, Request, Role, SigningAlgorithm};
use hsm_serve::Lane;

impl hsm_serve::Module for Module {
    fn state(&self) -> ModuleState {
        Module::state(self)
    }

    /// Data path inline; what takes long or writes the state file, on the pool.
    fn lane(&self, request: &Request) -> Lane {
        match request {
            Request::Status
            | Request::GenerateDataKeys { .. }
            | Request::Encrypt { .. }
            | Request::Decrypt { .. }
            | Request::ReEncrypt { .. }
            | Request::Mac { .. }
            | Request::Random { .. }
            | Request::SystemSeal { .. }
            | Request::SignBatch { .. }
            | Request::Counters { .. }
            | Request::Rewrap { .. } => Lane::Inline,
            Request::Sign { algorithm, .. } => match algorithm {
                SigningAlgorithm::EcdsaSha256 | SigningAlgorithm::Ed25519Sha512 => Lane::Inline,
                SigningAlgorithm::RsassaPssSha256
                | SigningAlgorithm::RsassaPssSha384
                | SigningAlgorithm::RsassaPssSha512
                | SigningAlgorithm::RsassaPkcs1V15Sha256
                | SigningAlgorithm::RsassaPkcs1V15Sha384
                | SigningAlgorithm::RsassaPkcs1V15Sha512 => Lane::Pool,
            },
            Request::GenerateKey(_)
            | Request::PublicKey { .. }
            | Request::SystemOpen { .. }
            | Request::SignCheckpoint { .. }
            | Request::Initialise { .. }
            | Request::Enrol { .. }
            | Request::Backup { .. }
            | Request::Restore { .. }
            | Request::RotateDomain
            | Request::Zeroise => Lane::Pool,
        }
    }

    fn serve(&self, role: Role, request: Request) -> Result<Reply, HsmError> {
        Module::serve(self, role, request)
    }
}
