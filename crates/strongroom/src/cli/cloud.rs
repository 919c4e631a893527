//! What `strongroom login` is told of a cloud's identity: by the variables that the cloud's own tools read.
//!
//! Never: an AWS secret key as an argument.

use super::Usage;
use anyhow::Result;
use clap::Args;
use client::{Aws, AwsCredentials, Input, Login, Metadata, SecretBytes};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

#[derive(Debug, Args)]
pub struct AwsArguments {
    /// Role of the auth method
    #[arg(long)]
    role: String,
    /// Which server this is for: the mount's `iam_server_id_header_value`
    #[arg(long, value_name = "ID")]
    server_id: String,
    /// Region whose token service tells who this is; on an instance, its own
    #[arg(long, env = "AWS_REGION")]
    region: Option<String>,
    /// Host of the mount's `sts_endpoint`, where it has one
    #[arg(long, value_name = "HOST")]
    sts_host: Option<String>,
    #[arg(long, env = "AWS_ACCESS_KEY_ID", hide = true)]
    access_key_id: Option<String>,
    #[command(flatten)]
    secrets: AwsSecrets,
    #[arg(long, env = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", hide = true)]
    container_path: Option<String>,
    #[arg(long, env = "AWS_CONTAINER_CREDENTIALS_FULL_URI", hide = true)]
    container_url: Option<String>,
    #[arg(long, env = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", hide = true)]
    container_token_file: Option<PathBuf>,
    /// Where the instance's metadata is
    #[arg(long, value_name = "URL", env = "AWS_EC2_METADATA_SERVICE_ENDPOINT", default_value = client::AWS_METADATA)]
    metadata: String,
}

/// Read from the environment alone, as `refuse_token_argument` sees to: an argument could be seen by others.
#[derive(Debug, Args)]
struct AwsSecrets {
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide = true, hide_env_values = true)]
    secret_access_key: Option<Secret>,
    #[arg(long, env = "AWS_SESSION_TOKEN", hide = true, hide_env_values = true)]
    session_token: Option<Secret>,
}

#[derive(Debug, Args)]
pub struct GcpArguments {
    /// Role of the auth method
    #[arg(long)]
    role: String,
    /// The mount's `audience`, to which a slash and the role are added
    #[arg(long)]
    audience: String,
    /// Where the instance's metadata is
    #[arg(long, value_name = "URL", default_value = client::GOOGLE_METADATA)]
    metadata: String,
}

#[derive(Debug, Args)]
pub struct AzureArguments {
    /// Role of the auth method
    #[arg(long)]
    role: String,
    /// The mount's `resource`
    #[arg(long)]
    resource: String,
    /// Which managed identity, where the machine has several
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Where the instance's metadata is
    #[arg(long, value_name = "URL", default_value = client::AZURE_METADATA)]
    metadata: String,
}

/// A text of the environment that is wiped.
#[derive(Clone)]
struct Secret(Arc<SecretBytes>);

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(raw: &str) -> Result<Self, Self::Err> {
        Ok(Self(Arc::new(SecretBytes::copy_from(raw.trim().as_bytes()))))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    fn copied(&self) -> SecretBytes {
        SecretBytes::copy_from(self.0.expose())
    }
}

impl AwsArguments {
    /// In the order in which AWS's own tools look.
    pub fn login(self, mount: String) -> Result<Login> {
        let AwsSecrets { secret_access_key, session_token } = self.secrets;
        let authorization = self.container_token_file.map(Input::AnyFile);
        let credentials = match (self.access_key_id, secret_access_key, self.container_path, self.container_url) {
            (Some(access_key_id), Some(secret), ..) => AwsCredentials::Given {
                access_key_id,
                secret_access_key: secret.copied(),
                session_token: session_token.map(|token| token.copied()),
            },
            (Some(_), None, ..) => {
                return Err(Usage("AWS_ACCESS_KEY_ID goes with AWS_SECRET_ACCESS_KEY".to_owned()).into());
            }
            (None, _, Some(path), _) => {
                AwsCredentials::Container { url: format!("{}{path}", client::AWS_CONTAINERS), authorization }
            }
            (None, _, None, Some(url)) => AwsCredentials::Container { url, authorization },
            (None, _, None, None) => AwsCredentials::Instance { endpoint: self.metadata },
        };
        let aws = Aws { credentials, region: self.region, server_id: self.server_id, sts_host: self.sts_host };
        Ok(Login::Aws { mount, role: self.role, aws })
    }
}

impl GcpArguments {
    pub fn login(self, mount: String) -> Login {
        let audience = format!("{}/{}", self.audience, self.role);
        Login::Metadata { mount, role: self.role, service: Metadata::Google { audience, endpoint: self.metadata } }
    }
}

impl AzureArguments {
    pub fn login(self, mount: String) -> Login {
        let Self { role, resource, client_id, metadata } = self;
        Login::Metadata { mount, role, service: Metadata::Azure { resource, client_id, endpoint: metadata } }
    }
}
