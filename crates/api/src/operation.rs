//! What can be asked, as metrics and records name it.

macro_rules! operations {
    ($($variant:ident $(= $($path:literal)|+)?;)*) => {
        /// A method of one of our services, a verb of the vault's API, or what stands beside them for everybody.
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
                    $($($($path)|+ => Self::$variant,)?)*
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
    VaultRead;
    VaultList;
    VaultWrite;
    VaultPatch;
    VaultDelete;
    Health = "/health" | "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch";
    Metrics = "/metrics";
    Reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
}

impl Operation {
    /// Those of the vault's API, whatever the path.
    pub const VERBS: [Self; 5] =
        [Self::VaultRead, Self::VaultList, Self::VaultWrite, Self::VaultPatch, Self::VaultDelete];

    pub(crate) fn of_verb(verb: vault::Verb) -> Self {
        match verb {
            vault::Verb::Read => Self::VaultRead,
            vault::Verb::List => Self::VaultList,
            vault::Verb::Write => Self::VaultWrite,
            vault::Verb::Patch => Self::VaultPatch,
            vault::Verb::Delete => Self::VaultDelete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vaults_verbs_are_named_as_its_records_name_them() {
        use vault::Verb;
        for verb in [Verb::Read, Verb::List, Verb::Write, Verb::Patch, Verb::Delete] {
            assert_eq!(Operation::of_verb(verb).name(), vault::scope::operation(verb));
        }
    }

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
        let verbs = Operation::VERBS.len();
        let beside = [Operation::Health, Operation::Metrics, Operation::Reflection, Operation::Unknown];
        assert_eq!(methods + verbs + beside.len(), Operation::ALL.len());
        assert!(Operation::ALL.ends_with(&beside));
        assert_eq!(Operation::of("/strongroom.kms.v1.Keys/Encrypt"), Operation::Unknown);
    }
}
