//! The native API's messages and stubs, made from the `.proto` files beside this crate.
//!
//! Always: a message that holds a secret prints as its name and nothing more.
//! Never: logic. Secrets are plain `Bytes` here, because prost knows no other: who decodes one wipes it.
#![forbid(unsafe_code)]

mod codec;

/// `strongroom.kms.v1`: keys and what they do.
pub mod kms {
    #![allow(clippy::all, missing_debug_implementations, reason = "generated")]
    tonic::include_proto!("strongroom.kms.v1");

    super::prints_as_name!(
        GenerateDataKeyResponse,
        EncryptRequest,
        DecryptResponse,
        GenerateMacRequest,
        VerifyMacRequest,
        SignRequest,
        VerifyRequest,
        GenerateRandomResponse
    );
}

/// `strongroom.identity.v1`: tokens, policies, certificate roles.
pub mod identity {
    #![allow(clippy::all, missing_debug_implementations, reason = "generated")]
    tonic::include_proto!("strongroom.identity.v1");

    super::prints_as_name!(CreateTokenResponse);
}

/// `strongroom.operator.v1`: status and backup.
pub mod operator {
    #![allow(clippy::all, missing_debug_implementations, reason = "generated")]
    tonic::include_proto!("strongroom.operator.v1");
}

/// `v2` of Kubernetes's KMS plugins: what an API server asks of `strongroom kms-plugin`.
pub mod kubernetes_kms {
    #![allow(clippy::all, missing_debug_implementations, reason = "generated")]
    tonic::include_proto!("v2");

    super::prints_as_name!(EncryptRequest, DecryptResponse);
}

/// All files' descriptors, encoded: what reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

macro_rules! prints_as_name {
    ($($message:ident),*) => {
        $(impl ::std::fmt::Debug for $message {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(stringify!($message))
            }
        })*
    };
}
use prints_as_name;

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn messages_that_hold_secrets_print_as_their_names() {
        let secret = bytes::Bytes::from_static(b"secret");
        let reply = kms::GenerateDataKeyResponse { plaintext: secret.clone(), ..Default::default() };
        assert_eq!(format!("{reply:?}"), "GenerateDataKeyResponse");
        let batch =
            kms::BatchEncryptRequest { items: vec![kms::EncryptRequest { plaintext: secret, ..Default::default() }] };
        assert_eq!(format!("{batch:?}"), "BatchEncryptRequest { items: [EncryptRequest] }");
        let seed = kubernetes_kms::EncryptRequest { plaintext: "secret".into(), uid: String::new() };
        assert_eq!(format!("{seed:?}"), "EncryptRequest");
        let token = identity::CreateTokenResponse { token: "secret".into(), metadata: None };
        assert_eq!(format!("{token:?}"), "CreateTokenResponse");
    }

    #[test]
    fn enum_values_end_as_the_field_names_them() {
        for (value, name) in [
            (kms::KeySpec::SymmetricDefault.as_str_name(), "KEY_SPEC_SYMMETRIC_DEFAULT"),
            (kms::KeySpec::EccNistP256.as_str_name(), "KEY_SPEC_ECC_NIST_P256"),
            (kms::DataKeySpec::Aes256.as_str_name(), "DATA_KEY_SPEC_AES_256"),
            (kms::KeyUsage::SignVerify.as_str_name(), "KEY_USAGE_SIGN_VERIFY"),
            (kms::SigningAlgorithmSpec::RsassaPssSha256.as_str_name(), "SIGNING_ALGORITHM_SPEC_RSASSA_PSS_SHA_256"),
        ] {
            assert_eq!(value, name);
        }
    }

    #[test]
    fn every_service_is_described_to_who_reflects() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let services: Vec<String> = set
            .file
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| format!("{}.{}", file.package(), service.name())))
            .collect();
        let expected = [
            "strongroom.kms.v1.Keys",
            "strongroom.kms.v1.Crypto",
            "strongroom.identity.v1.Identity",
            "strongroom.operator.v1.Operator",
        ];
        for service in expected {
            assert!(services.iter().any(|found| found == service), "{service} is not in {services:?}");
        }
    }
}
