//! Messages of `strongroom.identity.v1` ↔ identity's own types.

use crate::kms_grpc::codec::timestamp;
use crate::kms_grpc::error::Refusal;
use bytes::Bytes;
use identity::{
    Accessor, CertificateMatch, CertificateRole, CertificateRolePage, CreateToken, CreatedToken, IdentityError,
    PageRequest, PolicyName, PolicyPage, RoleName, TokenMetadata, token,
};
use proto::identity as pb;
use proto::identity::certificate_role::Match;

pub(crate) fn create_token(message: &pb::CreateTokenRequest) -> Result<CreateToken, Refusal> {
    let pb::CreateTokenRequest { policies, display_name, ttl_secs, num_uses, certificate_thumbprint, renewable } =
        message;
    let command = CreateToken::parse(policies, display_name, *ttl_secs, *num_uses, certificate_thumbprint)?;
    Ok(CreateToken { renewable: *renewable, ..command })
}

/// The reply's `String` is a copy: protobuf knows no secret text. prost writes it into the reply's buffer and drops it unwiped.
pub(crate) fn created_token(created: CreatedToken) -> Result<pb::CreateTokenResponse, IdentityError> {
    let text =
        std::str::from_utf8(created.token.expose()).map_err(|_| IdentityError::Internal("a token is not text"))?;
    Ok(pb::CreateTokenResponse { token: text.to_owned(), metadata: Some(token_metadata(&created.metadata)) })
}

pub(crate) fn token_metadata(token: &TokenMetadata) -> pb::TokenMetadata {
    pb::TokenMetadata {
        accessor: token.accessor.as_str().to_owned(),
        display_name: token.display_name.as_str().to_owned(),
        policies: names(&token.policies),
        creation_date: Some(timestamp(token.created)),
        expiration_date: token.expires.map(timestamp),
        uses_left: token.uses_left,
        certificate_thumbprint: token
            .certificate_thumbprint
            .map(|bytes| Bytes::copy_from_slice(&bytes))
            .unwrap_or_default(),
        orphan: matches!(token.parent, token::Parent::Orphan),
        parent_accessor: token.parent.text(),
        renewable: token.renewable,
    }
}

/// Empty: the caller's own token.
pub(crate) fn accessor(raw: &str) -> Result<Option<Accessor>, Refusal> {
    (!raw.is_empty()).then(|| Accessor::parse(raw).map_err(|_| Refusal::field("accessor"))).transpose()
}

pub(crate) fn policy_name(raw: &str) -> Result<PolicyName, Refusal> {
    PolicyName::parse(raw).map_err(|_| Refusal::field("name"))
}

pub(crate) fn role_name(raw: &str) -> Result<RoleName, Refusal> {
    RoleName::parse(raw).map_err(|_| Refusal::field("name"))
}

pub(crate) fn page(limit: u32, marker: &str) -> Result<PageRequest, Refusal> {
    Ok(PageRequest::parse(limit, marker)?)
}

pub(crate) fn policy_page(page: PolicyPage) -> pb::ListPoliciesResponse {
    pb::ListPoliciesResponse {
        names: names(&page.names),
        truncated: page.next_marker.is_some(),
        next_marker: page.next_marker.unwrap_or_default(),
    }
}

pub(crate) fn certificate_role(message: Option<pb::CertificateRole>) -> Result<CertificateRole, Refusal> {
    let message = message.ok_or_else(|| Refusal::field("role"))?;
    let matches = match message.r#match {
        None => return Err(Refusal::field("role.match")),
        Some(Match::CertificateThumbprint(bytes)) => CertificateMatch::Thumbprint(
            bytes.as_ref().try_into().map_err(|_| Refusal::field("role.certificate_thumbprint"))?,
        ),
        Some(Match::CommonName(name)) => CertificateMatch::CommonName(name),
        Some(Match::SubjectAlternativeName(name)) => CertificateMatch::SubjectAlternativeName(name),
    };
    let name = RoleName::parse(&message.name).map_err(|_| Refusal::field("role.name"))?;
    let policies = token::parse_policies(&message.policies).map_err(|_| Refusal::field("role.policies"))?;
    let role = CertificateRole { name, matches, policies: policies.into() };
    role.check().map_err(|error| Refusal::from(error).within("role"))?;
    Ok(role)
}

pub(crate) fn role_page(page: CertificateRolePage) -> pb::ListCertificateRolesResponse {
    pb::ListCertificateRolesResponse {
        roles: page.roles.into_iter().map(role).collect(),
        truncated: page.next_marker.is_some(),
        next_marker: page.next_marker.unwrap_or_default(),
    }
}

fn role(role: CertificateRole) -> pb::CertificateRole {
    let matches = match role.matches {
        CertificateMatch::Thumbprint(bytes) => Match::CertificateThumbprint(Bytes::copy_from_slice(&bytes)),
        CertificateMatch::CommonName(name) => Match::CommonName(name),
        CertificateMatch::SubjectAlternativeName(name) => Match::SubjectAlternativeName(name),
    };
    pb::CertificateRole { name: role.name.to_string(), r#match: Some(matches), policies: names(&role.policies) }
}

fn names(policies: &[PolicyName]) -> Vec<String> {
    policies.iter().map(ToString::to_string).collect()
}
