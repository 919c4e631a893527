//! `strongroom.identity.v1.Identity`. Authentication and failures as in [`crate::kms_grpc`].
//!
//! A new token's text is wiped, but its copy in the reply is not: protobuf text is a plain `String`.
//!
//! Never: a decision. Each handler decodes, calls, encodes.
//!
//! # Divergences
//!
//! From Vault's token and policy API, whose words these are:
//! * Tokens are looked up, renewed and revoked by accessor, or by being used; there is no call that takes a token in its body.
//! * A token's policies are a subset of its maker's, and `default` is not added by itself.
//! * Token roles, periods, batch tokens and orphans are the domain's, and not asked for here.
//! * Certificate roles stand for a principal on every call; there is no login that turns a certificate into a token.
//! * Lists come in pages.

mod codec;

use crate::gate::enter;
use identity::Identities;
use proto::identity as pb;
use proto::identity::identity_server::Identity;
use std::time::Duration;
use tonic::{Request, Response, Status};

#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) identities: Identities,
}

type Answer<R> = Result<Response<R>, Status>;

#[tonic::async_trait]
impl Identity for Face {
    async fn create_token(&self, request: Request<pb::CreateTokenRequest>) -> Answer<pb::CreateTokenResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(codec::create_token(&message)).await?;
        let outcome = self.identities.create_token(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome.and_then(codec::created_token), |reply| reply)
    }

    async fn lookup_token(&self, request: Request<pb::LookupTokenRequest>) -> Answer<pb::LookupTokenResponse> {
        let (ticket, message) = enter(request)?;
        let accessor = ticket.parsed(codec::accessor(&message.accessor)).await?;
        let outcome = self.identities.lookup_token(ticket.by(), ticket.call(), accessor.as_ref().into()).await;
        ticket.answer(outcome, |token| pb::LookupTokenResponse { metadata: Some(codec::token_metadata(&token)) })
    }

    async fn renew_token(&self, request: Request<pb::RenewTokenRequest>) -> Answer<pb::RenewTokenResponse> {
        let (ticket, message) = enter(request)?;
        let accessor = ticket.parsed(codec::accessor(&message.accessor)).await?;
        let increment = Duration::from_secs(message.increment_secs);
        let target = accessor.as_ref().into();
        let outcome = self.identities.renew_token(ticket.by(), ticket.call(), target, Some(increment)).await;
        ticket.answer(outcome, |token| pb::RenewTokenResponse { metadata: Some(codec::token_metadata(&token)) })
    }

    async fn revoke_token(&self, request: Request<pb::RevokeTokenRequest>) -> Answer<pb::RevokeTokenResponse> {
        let (ticket, message) = enter(request)?;
        let accessor = ticket.parsed(codec::accessor(&message.accessor)).await?;
        let outcome = self.identities.revoke_token(ticket.by(), ticket.call(), accessor.as_ref().into()).await;
        ticket.answer(outcome, |()| pb::RevokeTokenResponse {})
    }

    async fn put_policy(&self, request: Request<pb::PutPolicyRequest>) -> Answer<pb::PutPolicyResponse> {
        let (ticket, message) = enter(request)?;
        let name = ticket.parsed(codec::policy_name(&message.name)).await?;
        let outcome = self.identities.put_policy(ticket.by(), ticket.call(), &name, &message.policy).await;
        ticket.answer(outcome, |()| pb::PutPolicyResponse {})
    }

    async fn get_policy(&self, request: Request<pb::GetPolicyRequest>) -> Answer<pb::GetPolicyResponse> {
        let (ticket, message) = enter(request)?;
        let name = ticket.parsed(codec::policy_name(&message.name)).await?;
        let outcome = self.identities.get_policy(ticket.by(), ticket.call(), &name).await;
        ticket.answer(outcome, |found| pb::GetPolicyResponse { name: found.name.to_string(), policy: found.text })
    }

    async fn list_policies(&self, request: Request<pb::ListPoliciesRequest>) -> Answer<pb::ListPoliciesResponse> {
        let (ticket, message) = enter(request)?;
        let page = ticket.parsed(codec::page(message.limit, &message.marker)).await?;
        let outcome = self.identities.list_policies(ticket.by(), ticket.call(), &page).await;
        ticket.answer(outcome, codec::policy_page)
    }

    async fn delete_policy(&self, request: Request<pb::DeletePolicyRequest>) -> Answer<pb::DeletePolicyResponse> {
        let (ticket, message) = enter(request)?;
        let name = ticket.parsed(codec::policy_name(&message.name)).await?;
        let outcome = self.identities.delete_policy(ticket.by(), ticket.call(), &name).await;
        ticket.answer(outcome, |()| pb::DeletePolicyResponse {})
    }

    async fn put_certificate_role(
        &self,
        request: Request<pb::PutCertificateRoleRequest>,
    ) -> Answer<pb::PutCertificateRoleResponse> {
        let (ticket, message) = enter(request)?;
        let role = ticket.parsed(codec::certificate_role(message.role)).await?;
        let outcome = self.identities.put_certificate_role(ticket.by(), ticket.call(), &role).await;
        ticket.answer(outcome, |()| pb::PutCertificateRoleResponse {})
    }

    async fn list_certificate_roles(
        &self,
        request: Request<pb::ListCertificateRolesRequest>,
    ) -> Answer<pb::ListCertificateRolesResponse> {
        let (ticket, message) = enter(request)?;
        let page = ticket.parsed(codec::page(message.limit, &message.marker)).await?;
        let outcome = self.identities.list_certificate_roles(ticket.by(), ticket.call(), &page).await;
        ticket.answer(outcome, codec::role_page)
    }

    async fn delete_certificate_role(
        &self,
        request: Request<pb::DeleteCertificateRoleRequest>,
    ) -> Answer<pb::DeleteCertificateRoleResponse> {
        let (ticket, message) = enter(request)?;
        let name = ticket.parsed(codec::role_name(&message.name)).await?;
        let outcome = self.identities.delete_certificate_role(ticket.by(), ticket.call(), &name).await;
        ticket.answer(outcome, |()| pb::DeleteCertificateRoleResponse {})
    }
}
