//! Identities that a cloud gives to what runs in it: nobody bakes a secret in.
//!
//! Always: the metadata service is asked anew at each login, on addresses that do not leave this machine's link, without a
//! proxy; EC2's with a session token (IMDSv2), which a request that was smuggled through an application cannot get.
//! Always: the server's name is chosen here, never taken from the server: what is signed for one counts at no other.
//! Never: an AWS secret key on the wire. What is sent is a signature over who we are.

mod aws;
mod metadata;
mod sigv4;

use crate::login::Input;
use crate::{Client, Error, SecretBytes};
use metadata::Service;

/// How to log in by AWS.
#[derive(Debug)]
pub struct Aws {
    pub credentials: AwsCredentials,
    /// Whose token service is asked. None: the instance's own.
    pub region: Option<String>,
    /// The mount's `iam_server_id_header_value`.
    pub server_id: String,
    /// The host of the mount's `sts_endpoint`, where it has one.
    pub sts_host: Option<String>,
}

/// Where AWS credentials come from.
#[derive(Debug)]
pub enum AwsCredentials {
    /// From the environment, mostly.
    Given { access_key_id: String, secret_access_key: SecretBytes, session_token: Option<SecretBytes> },
    /// An EC2 instance's role, by IMDSv2.
    Instance { endpoint: String },
    /// An ECS task's, or an EKS pod's (Pod Identity): the URL that the container was told, and what it shows there.
    Container { url: String, authorization: Option<Input> },
}

/// How to log in by Google's or Microsoft's metadata service.
#[derive(Debug)]
pub enum Metadata {
    /// An identity token of the instance's service account, for this audience.
    Google { audience: String, endpoint: String },
    /// An access token of a managed identity, for this resource; which one, where there are several.
    Azure { resource: String, client_id: Option<String>, endpoint: String },
}

/// EC2's metadata service.
pub const AWS_METADATA: &str = "http://169.254.169.254";
/// Google's, by its address: no resolver is asked.
pub const GOOGLE_METADATA: &str = "http://169.254.169.254";
/// Azure's.
pub const AZURE_METADATA: &str = "http://169.254.169.254";
/// Where containers of ECS find the path of which they are told.
pub const AWS_CONTAINERS: &str = "http://169.254.170.2";

impl Aws {
    /// The fields of a login, all but the role.
    pub(crate) async fn fields(&self, nonce: &str, client: &Client) -> Result<Vec<(&'static str, SecretBytes)>, Error> {
        let credentials = aws::credentials(&self.credentials).await?;
        let region = match (&self.region, &self.credentials) {
            (Some(region), _) => region.clone(),
            (None, AwsCredentials::Instance { endpoint }) => aws::region(endpoint).await?,
            (None, AwsCredentials::Given { .. } | AwsCredentials::Container { .. }) => {
                return Err(Error::Cloud { cloud: "AWS", reason: "no region is named".to_owned() });
            }
        };
        let certificate = client.thumbprint.map(|print| print.map(|byte| format!("{byte:02x}")).concat());
        let host = self.sts_host.clone().unwrap_or_else(|| sigv4::host(&region));
        let signed = sigv4::Login {
            region: &region,
            host: &host,
            server_id: &self.server_id,
            nonce,
            certificate: certificate.as_deref(),
        }
        .sign(&credentials, time::OffsetDateTime::now_utc());
        let text = |text: &str| SecretBytes::copy_from(text.as_bytes());
        let mut fields = vec![
            ("access_key_id", text(&credentials.access_key_id)),
            ("amz_date", text(&signed.amz_date)),
            ("region", text(&region)),
            ("nonce", text(nonce)),
            ("signature", text(&signed.signature)),
        ];
        fields.extend(credentials.session_token.map(|token| ("security_token", token)));
        fields.extend(certificate.as_deref().map(|certificate| ("certificate", text(certificate))));
        Ok(fields)
    }
}

impl Metadata {
    /// A signed text that tells who this is.
    pub(crate) async fn jwt(&self) -> Result<SecretBytes, Error> {
        match self {
            Self::Google { audience, endpoint } => {
                let service = Service { cloud: "Google", endpoint, host: Some("metadata.google.internal") };
                let audience = crate::vault::encode(audience);
                let path = format!(
                    "/computeMetadata/v1/instance/service-accounts/default/identity?audience={audience}&format=full"
                );
                service.get(&path, &[("metadata-flavor", "Google")]).await
            }
            Self::Azure { resource, client_id, endpoint } => {
                #[derive(serde::Deserialize)]
                struct Granted {
                    access_token: zeroize::Zeroizing<String>,
                }
                let service = Service { cloud: "Azure", endpoint, host: None };
                let resource = crate::vault::encode(resource);
                let mut path = format!("/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}");
                if let Some(id) = client_id {
                    path.push_str(&format!("&client_id={}", crate::vault::encode(id)));
                }
                let answer = service.get(&path, &[("metadata", "true")]).await?;
                let Granted { access_token } =
                    serde_json::from_slice(answer.expose()).map_err(|_| service.failed("its answer is no token"))?;
                Ok(SecretBytes::copy_from(access_token.as_bytes()))
            }
        }
    }
}
