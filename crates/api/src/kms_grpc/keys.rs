//! Handlers of `Keys`: decode, call, encode.

use super::codec::{self, keys as code};
use super::{Answer, Face};
use crate::gate::enter;
use proto::kms as pb;
use proto::kms::keys_server::Keys;
use tonic::Request;

#[tonic::async_trait]
impl Keys for Face {
    async fn create_key(&self, request: Request<pb::CreateKeyRequest>) -> Answer<pb::CreateKeyResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::create_key(&message)).await?;
        let outcome = ticket.on_lane(&self.kms).create_key(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, |key| pb::CreateKeyResponse { key_metadata: Some(code::key_metadata(key)) })
    }

    async fn describe_key(&self, request: Request<pb::DescribeKeyRequest>) -> Answer<pb::DescribeKeyResponse> {
        let (ticket, message) = enter(request)?;
        let key = ticket.parsed(codec::key(&message.key_id, "key_id")).await?;
        let outcome = ticket.on_lane(&self.kms).describe_key(ticket.by(), ticket.call(), &key).await;
        ticket.answer(outcome, |key| pb::DescribeKeyResponse { key_metadata: Some(code::key_metadata(key)) })
    }

    async fn list_keys(&self, request: Request<pb::ListKeysRequest>) -> Answer<pb::ListKeysResponse> {
        let (ticket, message) = enter(request)?;
        let page = code::page(message.limit, message.marker);
        let outcome = ticket.on_lane(&self.kms).list_keys(ticket.by(), ticket.call(), &page).await;
        ticket.answer(outcome, code::keys)
    }

    async fn enable_key(&self, request: Request<pb::EnableKeyRequest>) -> Answer<pb::EnableKeyResponse> {
        let (ticket, message) = enter(request)?;
        let key = ticket.parsed(codec::key(&message.key_id, "key_id")).await?;
        let outcome = ticket.on_lane(&self.kms).enable_key(ticket.by(), ticket.call(), &key).await;
        ticket.answer(outcome, |()| pb::EnableKeyResponse {})
    }

    async fn disable_key(&self, request: Request<pb::DisableKeyRequest>) -> Answer<pb::DisableKeyResponse> {
        let (ticket, message) = enter(request)?;
        let key = ticket.parsed(codec::key(&message.key_id, "key_id")).await?;
        let outcome = ticket.on_lane(&self.kms).disable_key(ticket.by(), ticket.call(), &key).await;
        ticket.answer(outcome, |()| pb::DisableKeyResponse {})
    }

    async fn schedule_key_deletion(
        &self,
        request: Request<pb::ScheduleKeyDeletionRequest>,
    ) -> Answer<pb::ScheduleKeyDeletionResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::schedule_key_deletion(&message)).await?;
        let outcome = ticket.on_lane(&self.kms).schedule_key_deletion(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::deletion_scheduled)
    }

    async fn cancel_key_deletion(
        &self,
        request: Request<pb::CancelKeyDeletionRequest>,
    ) -> Answer<pb::CancelKeyDeletionResponse> {
        let (ticket, message) = enter(request)?;
        let key = ticket.parsed(codec::key(&message.key_id, "key_id")).await?;
        let outcome = ticket.on_lane(&self.kms).cancel_key_deletion(ticket.by(), ticket.call(), &key).await;
        ticket.answer(outcome, |done| pb::CancelKeyDeletionResponse { key_id: done.key_id.to_string() })
    }

    async fn rotate_key_on_demand(
        &self,
        request: Request<pb::RotateKeyOnDemandRequest>,
    ) -> Answer<pb::RotateKeyOnDemandResponse> {
        let (ticket, message) = enter(request)?;
        let key = ticket.parsed(codec::key(&message.key_id, "key_id")).await?;
        let outcome = ticket.on_lane(&self.kms).rotate_key_on_demand(ticket.by(), ticket.call(), &key).await;
        ticket.answer(outcome, |rotated| pb::RotateKeyOnDemandResponse {
            key_id: rotated.key_id.to_string(),
            key_version: rotated.key_version,
        })
    }

    async fn create_alias(&self, request: Request<pb::CreateAliasRequest>) -> Answer<pb::CreateAliasResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::create_alias(&message)).await?;
        let outcome = ticket.on_lane(&self.kms).create_alias(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, |()| pb::CreateAliasResponse {})
    }

    async fn update_alias(&self, request: Request<pb::UpdateAliasRequest>) -> Answer<pb::UpdateAliasResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::update_alias(&message)).await?;
        let outcome = ticket.on_lane(&self.kms).update_alias(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, |()| pb::UpdateAliasResponse {})
    }

    async fn delete_alias(&self, request: Request<pb::DeleteAliasRequest>) -> Answer<pb::DeleteAliasResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::delete_alias(&message)).await?;
        let outcome = ticket.on_lane(&self.kms).delete_alias(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, |()| pb::DeleteAliasResponse {})
    }

    async fn list_aliases(&self, request: Request<pb::ListAliasesRequest>) -> Answer<pb::ListAliasesResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::list_aliases(message)).await?;
        let outcome = ticket.on_lane(&self.kms).list_aliases(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::aliases)
    }

    async fn create_grant(&self, request: Request<pb::CreateGrantRequest>) -> Answer<pb::CreateGrantResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::create_grant(message)).await?;
        let outcome = ticket.on_lane(&self.kms).create_grant(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, |grant| pb::CreateGrantResponse { grant_id: grant.to_string() })
    }

    async fn list_grants(&self, request: Request<pb::ListGrantsRequest>) -> Answer<pb::ListGrantsResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::list_grants(message)).await?;
        let outcome = ticket.on_lane(&self.kms).list_grants(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, |(key, page)| code::grants(key, page))
    }

    async fn revoke_grant(&self, request: Request<pb::RevokeGrantRequest>) -> Answer<pb::RevokeGrantResponse> {
        let (ticket, message) = enter(request)?;
        let grant = ticket.parsed(code::grant_ref(&message.key_id, &message.grant_id)).await?;
        let outcome = ticket.on_lane(&self.kms).revoke_grant(ticket.by(), ticket.call(), grant).await;
        ticket.answer(outcome, |()| pb::RevokeGrantResponse {})
    }

    async fn retire_grant(&self, request: Request<pb::RetireGrantRequest>) -> Answer<pb::RetireGrantResponse> {
        let (ticket, message) = enter(request)?;
        let grant = ticket.parsed(code::grant_ref(&message.key_id, &message.grant_id)).await?;
        let outcome = ticket.on_lane(&self.kms).retire_grant(ticket.by(), ticket.call(), grant).await;
        ticket.answer(outcome, |()| pb::RetireGrantResponse {})
    }
}
