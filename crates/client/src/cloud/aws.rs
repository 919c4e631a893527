//! AWS credentials, from where the platform keeps them.

use super::AwsCredentials;
use super::metadata::Service;
use crate::{Error, SecretBytes};
use http::Method;
use serde::Deserialize;
use zeroize::Zeroizing;

/// What signs.
pub(super) struct Credentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: SecretBytes,
    pub(super) session_token: Option<SecretBytes>,
}

/// As instances and containers are answered.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
}

pub(super) async fn credentials(from: &AwsCredentials) -> Result<Credentials, Error> {
    match from {
        AwsCredentials::Given { access_key_id, secret_access_key, session_token } => Ok(Credentials {
            access_key_id: access_key_id.clone(),
            secret_access_key: SecretBytes::copy_from(secret_access_key.expose()),
            session_token: session_token.as_ref().map(|token| SecretBytes::copy_from(token.expose())),
        }),
        AwsCredentials::Instance { endpoint } => {
            let service = instance(endpoint);
            let session = session(&service).await?;
            let headers = [(TOKEN, text(&service, &session)?)];
            let named = service.get(ROLES, &headers).await?;
            // one a line; there is one
            let role = text(&service, &named)?.lines().next().unwrap_or_default().trim();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
            if role.is_empty() || !role.bytes().all(plain) {
                return Err(service.failed("this instance has no role"));
            }
            read(&service, &service.get(&format!("{ROLES}{role}"), &headers).await?)
        }
        AwsCredentials::Container { url, authorization } => {
            let (endpoint, path) = split(url)?;
            let service = Service { cloud: "AWS", endpoint, host: None };
            let shown = authorization.as_ref().map(crate::Input::read).transpose()?;
            let shown = shown.as_ref().map(|shown| text(&service, shown)).transpose()?;
            let headers: Vec<_> = shown.into_iter().map(|shown| ("authorization", shown)).collect();
            read(&service, &service.get(path, &headers).await?)
        }
    }
}

/// Where this instance is.
pub(super) async fn region(endpoint: &str) -> Result<String, Error> {
    let service = instance(endpoint);
    let session = session(&service).await?;
    let told = service.get("/latest/meta-data/placement/region", &[(TOKEN, text(&service, &session)?)]).await?;
    Ok(text(&service, &told)?.trim().to_owned())
}

fn instance(endpoint: &str) -> Service<'_> {
    Service { cloud: "AWS", endpoint, host: None }
}

/// IMDSv2: the answer to a PUT, which goes as many hops as the instance's metadata options say.
async fn session(service: &Service<'_>) -> Result<SecretBytes, Error> {
    service.ask(Method::PUT, "/latest/api/token", &[("x-aws-ec2-metadata-token-ttl-seconds", "60")]).await
}

fn read(service: &Service<'_>, answer: &SecretBytes) -> Result<Credentials, Error> {
    let Answer { access_key_id, secret_access_key, token } =
        serde_json::from_slice(answer.expose()).map_err(|_| service.failed("its answer holds no credentials"))?;
    Ok(Credentials {
        access_key_id,
        secret_access_key: SecretBytes::copy_from(secret_access_key.as_bytes()),
        session_token: token.map(|token| SecretBytes::copy_from(token.as_bytes())),
    })
}

fn text<'t>(service: &Service<'_>, bytes: &'t SecretBytes) -> Result<&'t str, Error> {
    std::str::from_utf8(bytes.expose()).map_err(|_| service.failed("its answer is no text"))
}

/// `http://ADDRESS` and the rest.
fn split(url: &str) -> Result<(&str, &str), Error> {
    let start = url.strip_prefix("http://").map(|rest| url.len() - rest.len());
    let end = start.and_then(|start| url.get(start..)?.find('/').map(|at| start + at));
    end.and_then(|end| url.split_at_checked(end))
        .ok_or_else(|| Error::Cloud { cloud: "AWS", reason: format!("`{url}` is not http://ADDRESS/PATH") })
}

const TOKEN: &str = "x-aws-ec2-metadata-token";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
