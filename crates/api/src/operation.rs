//! What can be asked, as metrics and records name it.

macro_rules! operations {
    ($($variant:ident = $($path:literal)|+;)*) => {
        /// A method of one of our services, or what stands beside them for everybody.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Operation {
            $($variant,)*
            /// A path that names nothing of ours.
            Unknown,
        }

        impl Operation {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)* Self::Unknown];

            /// Its name, as records carry it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                    Self::Unknown => "Unknown",
                }
            }

            pub(crate) fn of(path: &str) -> Self {
                match path {
                    $($($path)|+ => Self::$variant,)*
                    _ => Self::Unknown,
                }
            }
        }
    };
}

operations! {
    GenerateDataKey = "/strongroom.kms.v1.Crypto/GenerateDataKey";
    Decrypt = "/strongroom.kms.v1.Crypto/Decrypt";
    Encrypt = "/strongroom.kms.v1.Crypto/Encrypt";
    GenerateDataKeyWithoutPlaintext = "/strongroom.kms.v1.Crypto/GenerateDataKeyWithoutPlaintext";
    ReEncrypt = "/strongroom.kms.v1.Crypto/ReEncrypt";
    Sign = "/strongroom.kms.v1.Crypto/Sign";
    Verify = "/strongroom.kms.v1.Crypto/Verify";
    GetPublicKey = "/strongroom.kms.v1.Crypto/GetPublicKey";
    GenerateMac = "/strongroom.kms.v1.Crypto/GenerateMac";
    VerifyMac = "/strongroom.kms.v1.Crypto/VerifyMac";
    GenerateRandom = "/strongroom.kms.v1.Crypto/GenerateRandom";
    BatchGenerateDataKey = "/strongroom.kms.v1.Crypto/BatchGenerateDataKey";
    BatchEncrypt = "/strongroom.kms.v1.Crypto/BatchEncrypt";
    BatchDecrypt = "/strongroom.kms.v1.Crypto/BatchDecrypt";
    CreateKey = "/strongroom.kms.v1.Keys/CreateKey";
    DescribeKey = "/strongroom.kms.v1.Keys/DescribeKey";
    ListKeys = "/strongroom.kms.v1.Keys/ListKeys";
    EnableKey = "/strongroom.kms.v1.Keys/EnableKey";
    DisableKey = "/strongroom.kms.v1.Keys/DisableKey";
    ScheduleKeyDeletion = "/strongroom.kms.v1.Keys/ScheduleKeyDeletion";
    CancelKeyDeletion = "/strongroom.kms.v1.Keys/CancelKeyDeletion";
    RotateKeyOnDemand = "/strongroom.kms.v1.Keys/RotateKeyOnDemand";
    CreateAlias = "/strongroom.kms.v1.Keys/CreateAlias";
    UpdateAlias = "/strongroom.kms.v1.Keys/UpdateAlias";
    DeleteAlias = "/strongroom.kms.v1.Keys/DeleteAlias";
    ListAliases = "/strongroom.kms.v1.Keys/ListAliases";
    CreateGrant = "/strongroom.kms.v1.Keys/CreateGrant";
    ListGrants = "/strongroom.kms.v1.Keys/ListGrants";
    RevokeGrant = "/strongroom.kms.v1.Keys/RevokeGrant";
    RetireGrant = "/strongroom.kms.v1.Keys/RetireGrant";
    CreateToken = "/strongroom.identity.v1.Identity/CreateToken";
    LookupToken = "/strongroom.identity.v1.Identity/LookupToken";
    RenewToken = "/strongroom.identity.v1.Identity/RenewToken";
    RevokeToken = "/strongroom.identity.v1.Identity/RevokeToken";
    PutPolicy = "/strongroom.identity.v1.Identity/PutPolicy";
    GetPolicy = "/strongroom.identity.v1.Identity/GetPolicy";
    ListPolicies = "/strongroom.identity.v1.Identity/ListPolicies";
    DeletePolicy = "/strongroom.identity.v1.Identity/DeletePolicy";
    PutCertificateRole = "/strongroom.identity.v1.Identity/PutCertificateRole";
    ListCertificateRoles = "/strongroom.identity.v1.Identity/ListCertificateRoles";
    DeleteCertificateRole = "/strongroom.identity.v1.Identity/DeleteCertificateRole";
    Status = "/strongroom.operator.v1.Operator/Status";
    Backup = "/strongroom.operator.v1.Operator/Backup";
    Health = "/health" | "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch";
    Metrics = "/metrics";
    Reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_is_described_is_an_operation() {
        let set: prost_types::FileDescriptorSet = prost::Message::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut methods = 0;
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert_eq!(Operation::of(&path).name(), method.name(), "{path}");
                    methods += 1;
                }
            }
        }
        let beside = [Operation::Health, Operation::Metrics, Operation::Reflection, Operation::Unknown];
        assert_eq!(methods + beside.len(), Operation::ALL.len());
        assert!(Operation::ALL.ends_with(&beside));
        assert_eq!(Operation::of("/strongroom.kms.v1.Keys/Encrypt"), Operation::Unknown);
    }
}
