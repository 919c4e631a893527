//! Grants: operations on one key for one principal, under constraints. Pure.

use crate::name::{GrantId, GrantName, PrincipalName};
use envelope::{EncryptionContext, Timestamp};
use hsm_api::KeyUsage;

/// What can be asked of a key and allowed by a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum GrantOperation {
    Decrypt = 1,
    Encrypt = 2,
    GenerateDataKey = 3,
    GenerateDataKeyWithoutPlaintext = 4,
    ReEncryptFrom = 5,
    ReEncryptTo = 6,
    Sign = 7,
    Verify = 8,
    GetPublicKey = 9,
    CreateGrant = 10,
    RetireGrant = 11,
    DescribeKey = 12,
    GenerateMac = 13,
    VerifyMac = 14,
}

/// Operations, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Operations(u16);

/// When a grant holds. Both conditions must be met; an empty one is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrantConstraints {
    /// The call's context holds all these pairs, and maybe more.
    pub subset: EncryptionContext,
    /// The call's context is exactly these pairs.
    pub equals: EncryptionContext,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub id: GrantId,
    pub name: Option<GrantName>,
    pub grantee: PrincipalName,
    pub retiring: Option<PrincipalName>,
    /// Who made it.
    pub issuing: PrincipalName,
    pub operations: Operations,
    pub constraints: GrantConstraints,
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
}

/// What is asked of a key, as grants see it.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub principal: &'a str,
    pub operation: GrantOperation,
    /// `None` where the operation takes none.
    pub context: Option<&'a EncryptionContext>,
    pub now: Timestamp,
}

impl GrantOperation {
    pub const ALL: [Self; 14] = [
        Self::Decrypt,
        Self::Encrypt,
        Self::GenerateDataKey,
        Self::GenerateDataKeyWithoutPlaintext,
        Self::ReEncryptFrom,
        Self::ReEncryptTo,
        Self::Sign,
        Self::Verify,
        Self::GetPublicKey,
        Self::CreateGrant,
        Self::RetireGrant,
        Self::DescribeKey,
        Self::GenerateMac,
        Self::VerifyMac,
    ];

    /// Whether calls of it name an encryption context.
    pub const fn takes_context(self) -> bool {
        match self {
            Self::Decrypt
            | Self::Encrypt
            | Self::GenerateDataKey
            | Self::GenerateDataKeyWithoutPlaintext
            | Self::ReEncryptFrom
            | Self::ReEncryptTo => true,
            Self::Sign
            | Self::Verify
            | Self::GetPublicKey
            | Self::CreateGrant
            | Self::RetireGrant
            | Self::DescribeKey
            | Self::GenerateMac
            | Self::VerifyMac => false,
        }
    }

    /// The usage that a key needs for it; `None`: any.
    pub const fn usage(self) -> Option<KeyUsage> {
        match self {
            Self::Decrypt
            | Self::Encrypt
            | Self::GenerateDataKey
            | Self::GenerateDataKeyWithoutPlaintext
            | Self::ReEncryptFrom
            | Self::ReEncryptTo => Some(KeyUsage::EncryptDecrypt),
            Self::Sign | Self::Verify | Self::GetPublicKey => Some(KeyUsage::SignVerify),
            Self::GenerateMac | Self::VerifyMac => Some(KeyUsage::GenerateVerifyMac),
            Self::CreateGrant | Self::RetireGrant | Self::DescribeKey => None,
        }
    }
}

impl Operations {
    /// `None` where one stands twice.
    pub fn of(operations: impl IntoIterator<Item = GrantOperation>) -> Option<Self> {
        let mut set = Self::default();
        for operation in operations {
            if set.contains(operation) {
                return None;
            }
            set.0 |= 1 << operation as u8;
        }
        Some(set)
    }

    pub const fn contains(self, operation: GrantOperation) -> bool {
        self.0 & (1 << operation as u8) != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = GrantOperation> {
        GrantOperation::ALL.into_iter().filter(move |operation| self.contains(*operation))
    }

    pub(crate) const fn bits(self) -> u16 {
        self.0
    }

    pub(crate) fn from_bits(bits: u16) -> Option<Self> {
        let all = Self::of(GrantOperation::ALL)?;
        let set = Self(bits);
        (!set.is_empty() && set.within(all)).then_some(set)
    }
}

impl GrantConstraints {
    pub fn is_empty(&self) -> bool {
        self.subset.is_empty() && self.equals.is_empty()
    }

    /// A constrained grant never covers a call without a context.
    pub fn allow(&self, context: Option<&EncryptionContext>) -> bool {
        match context {
            None => self.is_empty(),
            Some(context) => context.contains(&self.subset) && (self.equals.is_empty() || *context == self.equals),
        }
    }
}

impl Grant {
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    pub fn allows(&self, ask: &Ask<'_>) -> bool {
        self.grantee.as_str() == ask.principal
            && self.operations.contains(ask.operation)
            && self.is_live(ask.now)
            && self.constraints.allow(ask.context)
    }

    /// Whether who holds this grant with CREATE_GRANT may give `child` away: nothing in it goes beyond this one.
    pub fn covers(&self, child: &Self) -> bool {
        let lasts = match (self.expires, child.expires) {
            (None, _) => true,
            (Some(own), Some(given)) => given <= own,
            (Some(_), None) => false,
        };
        let narrower = child.constraints.subset.contains(&self.constraints.subset)
            && (self.constraints.equals.is_empty() || child.constraints.equals == self.constraints.equals);
        child.operations.within(self.operations) && lasts && narrower
    }

    /// Its retiring principal, or its grantee where it allows RETIRE_GRANT.
    pub fn may_be_retired_by(&self, principal: &str, now: Timestamp) -> bool {
        let ask = Ask { principal, operation: GrantOperation::RetireGrant, context: None, now };
        self.retiring.as_ref().is_some_and(|retiring| retiring.as_str() == principal) || self.allows(&ask)
    }
}

/// What a grant may not ask for on a key of this usage. The field at fault.
pub fn check(operations: Operations, constraints: &GrantConstraints, usage: KeyUsage) -> Result<(), &'static str> {
    let fits = |operation: GrantOperation| operation.usage().is_none_or(|needed| needed == usage);
    let constrainable = |operation: GrantOperation| constraints.is_empty() || operation.takes_context();
    let sound =
        !operations.is_empty() && operations.iter().all(|operation| fits(operation) && constrainable(operation));
    if sound { Ok(()) } else { Err("operations") }
}
