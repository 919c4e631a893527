//! Messages of `Keys`.

use super::crypto::mac_algorithm;
use super::{
    context, given, key, key_if_given, key_spec, key_spec_from, key_usage, key_usage_from, known, level, level_from,
    signing_algorithm, timestamp, timestamp_from,
};
use kms::op::deletion::DeletionScheduled;
use kms::{
    AliasEntry, AliasName, ClientRequestId, CreateAlias, CreateGrant, CreateKey, DeleteAlias, DeletionFinality,
    Description, Grant, GrantConstraints, GrantId, GrantName, GrantOperation, GrantRef, KeyId, KeyMetadata, KeySpec,
    KeyState, KmsError, ListAliases, ListGrants, Origin, Page, PageRequest, PrincipalName, ScheduleKeyDeletion,
    UpdateAlias,
};
use proto::kms as pb;

pub(crate) fn create_key(message: &pb::CreateKeyRequest) -> Result<CreateKey, KmsError> {
    let description = Description::parse(&message.description);
    let client_request_id = given(&message.client_request_id).map(ClientRequestId::parse).transpose();
    Ok(CreateKey {
        spec: key_spec_from(message.key_spec)?.unwrap_or(KeySpec::Aes256),
        usage: key_usage_from(message.key_usage)?,
        level: level_from(message.protection_level)?,
        description: description.map_err(|_| KmsError::InvalidField("description"))?,
        client_request_id: client_request_id.map_err(|_| KmsError::InvalidField("client_request_id"))?,
    })
}

pub(crate) fn key_metadata(key: KeyMetadata) -> pb::KeyMetadata {
    let (state, deletion) = match key.state {
        KeyState::Enabled => (pb::KeyState::Enabled, None),
        KeyState::Disabled => (pb::KeyState::Disabled, None),
        KeyState::PendingDeletion { at } => (pb::KeyState::PendingDeletion, Some(at)),
        KeyState::Deleted { at } => (pb::KeyState::Deleted, Some(at)),
    };
    let origin = match key.origin {
        Origin::Generated => pb::Origin::Generated,
        Origin::Imported => pb::Origin::Imported,
    };
    let finality = match key.deletion_finality {
        None => pb::DeletionFinality::Unspecified,
        Some(DeletionFinality::WhenBackupsOrDomainGenerationAreGone) => {
            pb::DeletionFinality::WhenBackupsOrDomainGenerationAreGone
        }
        Some(DeletionFinality::Final) => pb::DeletionFinality::Final,
    };
    let versions = key
        .versions
        .iter()
        .map(|version| pb::KeyVersion { key_version: version.number, creation_date: Some(timestamp(version.created)) });
    pb::KeyMetadata {
        key_id: key.key_id.to_string(),
        key_state: state.into(),
        key_spec: key_spec(key.spec).into(),
        key_usage: key_usage(key.usage).into(),
        protection_level: level(key.level).into(),
        origin: origin.into(),
        description: key.description,
        creation_date: Some(timestamp(key.created)),
        deletion_date: deletion.map(timestamp),
        current_key_version: key.current_version,
        key_versions: versions.collect(),
        signing_algorithms: key.signing_algorithms.iter().map(|one| signing_algorithm(*one).into()).collect(),
        mac_algorithms: key.mac_algorithms.iter().map(|one| mac_algorithm(*one).into()).collect(),
        deletion_finality: finality.into(),
    }
}

/// Limits are the listing's own, and it knows its markers: checked behind.
pub(crate) fn page(limit: u32, marker: String) -> PageRequest {
    PageRequest { limit, marker }
}

pub(crate) fn keys(page: Page<KeyId>) -> pb::ListKeysResponse {
    pb::ListKeysResponse {
        keys: page.items.iter().map(|id| pb::KeyListEntry { key_id: id.to_string() }).collect(),
        truncated: page.next_marker.is_some(),
        next_marker: page.next_marker.unwrap_or_default(),
    }
}

pub(crate) fn schedule_key_deletion(message: &pb::ScheduleKeyDeletionRequest) -> Result<ScheduleKeyDeletion, KmsError> {
    let pb::ScheduleKeyDeletionRequest { key_id, pending_window_in_days } = message;
    Ok(ScheduleKeyDeletion { key: key(key_id, "key_id")?, pending_window_in_days: *pending_window_in_days })
}

pub(crate) fn deletion_scheduled(scheduled: DeletionScheduled) -> pb::ScheduleKeyDeletionResponse {
    let state = match scheduled.state {
        KeyState::Enabled => pb::KeyState::Enabled,
        KeyState::Disabled => pb::KeyState::Disabled,
        KeyState::PendingDeletion { .. } => pb::KeyState::PendingDeletion,
        KeyState::Deleted { .. } => pb::KeyState::Deleted,
    };
    pb::ScheduleKeyDeletionResponse {
        key_id: scheduled.key_id.to_string(),
        deletion_date: Some(timestamp(scheduled.deletion_date)),
        key_state: state.into(),
        pending_window_in_days: scheduled.pending_window_in_days,
    }
}

fn alias_name(raw: &str) -> Result<AliasName, KmsError> {
    AliasName::parse(raw).map_err(|_| KmsError::InvalidField("alias_name"))
}

fn target(raw: &str) -> Result<KeyId, KmsError> {
    KeyId::parse(raw).map_err(|_| KmsError::InvalidField("target_key_id"))
}

pub(crate) fn create_alias(message: &pb::CreateAliasRequest) -> Result<CreateAlias, KmsError> {
    Ok(CreateAlias { alias: alias_name(&message.alias_name)?, target: target(&message.target_key_id)? })
}

pub(crate) fn update_alias(message: &pb::UpdateAliasRequest) -> Result<UpdateAlias, KmsError> {
    Ok(UpdateAlias { alias: alias_name(&message.alias_name)?, target: target(&message.target_key_id)? })
}

pub(crate) fn delete_alias(message: &pb::DeleteAliasRequest) -> Result<DeleteAlias, KmsError> {
    Ok(DeleteAlias { alias: alias_name(&message.alias_name)? })
}

pub(crate) fn list_aliases(message: pb::ListAliasesRequest) -> Result<ListAliases, KmsError> {
    Ok(ListAliases { key: key_if_given(&message.key_id, "key_id")?, page: page(message.limit, message.marker) })
}

pub(crate) fn aliases(page: Page<AliasEntry>) -> pb::ListAliasesResponse {
    let entry = |alias: &AliasEntry| pb::AliasListEntry {
        alias_name: alias.name.as_str().to_owned(),
        target_key_id: alias.target.to_string(),
        creation_date: Some(timestamp(alias.created)),
    };
    pb::ListAliasesResponse {
        aliases: page.items.iter().map(entry).collect(),
        truncated: page.next_marker.is_some(),
        next_marker: page.next_marker.unwrap_or_default(),
    }
}

pub(crate) fn create_grant(message: pb::CreateGrantRequest) -> Result<CreateGrant, KmsError> {
    // more than all of them name one twice, which is looked at behind
    if message.operations.len() > GrantOperation::ALL.len() {
        return Err(KmsError::InvalidField("operations"));
    }
    let operations = message.operations.iter().map(|raw| operation_from(*raw)).collect::<Result<Vec<_>, _>>()?;
    let name = given(&message.name).map(GrantName::parse).transpose();
    Ok(CreateGrant {
        key: key(&message.key_id, "key_id")?,
        grantee: principal(&message.grantee_principal, "grantee_principal")?,
        retiring: given(&message.retiring_principal).map(|raw| principal(raw, "retiring_principal")).transpose()?,
        operations,
        constraints: constraints_from(message.constraints.unwrap_or_default())?,
        name: name.map_err(|_| KmsError::InvalidField("name"))?,
        expires: message.expiration_date.map(|raw| timestamp_from(raw, "expiration_date")).transpose()?,
    })
}

fn principal(raw: &str, field: &'static str) -> Result<PrincipalName, KmsError> {
    PrincipalName::parse(raw).map_err(|_| KmsError::InvalidField(field))
}

fn constraints_from(message: pb::GrantConstraints) -> Result<GrantConstraints, KmsError> {
    Ok(GrantConstraints {
        subset: context(message.encryption_context_subset, "constraints.encryption_context_subset")?,
        equals: context(message.encryption_context_equals, "constraints.encryption_context_equals")?,
    })
}

pub(crate) fn list_grants(message: pb::ListGrantsRequest) -> Result<ListGrants, KmsError> {
    Ok(ListGrants {
        key: key(&message.key_id, "key_id")?,
        grant_id: given(&message.grant_id).map(grant_id).transpose()?,
        grantee: given(&message.grantee_principal).map(|raw| principal(raw, "grantee_principal")).transpose()?,
        page: page(message.limit, message.marker),
    })
}

fn grant_id(raw: &str) -> Result<GrantId, KmsError> {
    GrantId::parse(raw).map_err(|_| KmsError::InvalidField("grant_id"))
}

pub(crate) fn grants(key: KeyId, page: Page<Grant>) -> pb::ListGrantsResponse {
    pb::ListGrantsResponse {
        grants: page.items.into_iter().map(|one| grant(key, one)).collect(),
        truncated: page.next_marker.is_some(),
        next_marker: page.next_marker.unwrap_or_default(),
    }
}

fn grant(key: KeyId, grant: Grant) -> pb::GrantListEntry {
    let constraints = (!grant.constraints.is_empty()).then(|| pb::GrantConstraints {
        encryption_context_subset: grant.constraints.subset.pairs().clone(),
        encryption_context_equals: grant.constraints.equals.pairs().clone(),
    });
    pb::GrantListEntry {
        key_id: key.to_string(),
        grant_id: grant.id.to_string(),
        name: grant.name.map(|name| name.as_str().to_owned()).unwrap_or_default(),
        grantee_principal: grant.grantee.as_str().to_owned(),
        retiring_principal: grant.retiring.map(|name| name.as_str().to_owned()).unwrap_or_default(),
        issuing_principal: grant.issuing.as_str().to_owned(),
        operations: grant.operations.iter().map(|one| operation(one).into()).collect(),
        constraints,
        creation_date: Some(timestamp(grant.created)),
        expiration_date: grant.expires.map(timestamp),
    }
}

pub(crate) fn grant_ref(key_id: &str, grant: &str) -> Result<GrantRef, KmsError> {
    Ok(GrantRef { key: key(key_id, "key_id")?, grant_id: grant_id(grant)? })
}

fn operation(operation: GrantOperation) -> pb::GrantOperation {
    match operation {
        GrantOperation::Decrypt => pb::GrantOperation::Decrypt,
        GrantOperation::Encrypt => pb::GrantOperation::Encrypt,
        GrantOperation::GenerateDataKey => pb::GrantOperation::GenerateDataKey,
        GrantOperation::GenerateDataKeyWithoutPlaintext => pb::GrantOperation::GenerateDataKeyWithoutPlaintext,
        GrantOperation::ReEncryptFrom => pb::GrantOperation::ReEncryptFrom,
        GrantOperation::ReEncryptTo => pb::GrantOperation::ReEncryptTo,
        GrantOperation::Sign => pb::GrantOperation::Sign,
        GrantOperation::Verify => pb::GrantOperation::Verify,
        GrantOperation::GetPublicKey => pb::GrantOperation::GetPublicKey,
        GrantOperation::CreateGrant => pb::GrantOperation::CreateGrant,
        GrantOperation::RetireGrant => pb::GrantOperation::RetireGrant,
        GrantOperation::DescribeKey => pb::GrantOperation::DescribeKey,
        GrantOperation::GenerateMac => pb::GrantOperation::GenerateMac,
        GrantOperation::VerifyMac => pb::GrantOperation::VerifyMac,
    }
}

fn operation_from(raw: i32) -> Result<GrantOperation, KmsError> {
    match known(raw, "operations")? {
        pb::GrantOperation::Unspecified => Err(KmsError::InvalidField("operations")),
        pb::GrantOperation::Decrypt => Ok(GrantOperation::Decrypt),
        pb::GrantOperation::Encrypt => Ok(GrantOperation::Encrypt),
        pb::GrantOperation::GenerateDataKey => Ok(GrantOperation::GenerateDataKey),
        pb::GrantOperation::GenerateDataKeyWithoutPlaintext => Ok(GrantOperation::GenerateDataKeyWithoutPlaintext),
        pb::GrantOperation::ReEncryptFrom => Ok(GrantOperation::ReEncryptFrom),
        pb::GrantOperation::ReEncryptTo => Ok(GrantOperation::ReEncryptTo),
        pb::GrantOperation::Sign => Ok(GrantOperation::Sign),
        pb::GrantOperation::Verify => Ok(GrantOperation::Verify),
        pb::GrantOperation::GetPublicKey => Ok(GrantOperation::GetPublicKey),
        pb::GrantOperation::CreateGrant => Ok(GrantOperation::CreateGrant),
        pb::GrantOperation::RetireGrant => Ok(GrantOperation::RetireGrant),
        pb::GrantOperation::DescribeKey => Ok(GrantOperation::DescribeKey),
        pb::GrantOperation::GenerateMac => Ok(GrantOperation::GenerateMac),
        pb::GrantOperation::VerifyMac => Ok(GrantOperation::VerifyMac),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_a_grant_comes_back_as_it_went() {
        for one in GrantOperation::ALL {
            assert_eq!(operation_from(operation(one).into()), Ok(one));
        }
        for raw in [0, -1, 15, i32::MAX] {
            assert_eq!(operation_from(raw), Err(KmsError::InvalidField("operations")), "{raw}");
        }
    }
}
