//! `strongroom login`: a token for this person or machine, kept where all commands look for it.
//!
//! Never: a password, SecretID or token as an argument.

use super::browser::Browser;
use super::connection::Connection;
use super::output::{Answer, Record};
use super::{Usage, cloud, source};
use crate::files;
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use client::{Input, Login, SecretBytes, SecretId, Vault};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Log in, and keep the token in ~/.strongroom-token (0600), where all commands find it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom login userpass alice                      # asks for the password
  strongroom login approle --role-id-file role-id --secret-id-file wrapping-token --expect-path auth/approle/role/web/secret-id
  strongroom login oidc --role developer               # opens the browser
  TOKEN=$(strongroom login --print approle --role-id 5f0c… --secret-id-file secret-id)
  strongroom login aws --role web --server-id vault.example    # by the environment, the container or the instance
  strongroom login cert --client-cert web.pem --client-key web.pem    # at a mount of type cert

A client certificate that the server's own certificate roles stand for needs no login: name it with --client-cert and --client-key.")]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    /// Print the token, and nothing else, instead of keeping it
    #[arg(long)]
    print: bool,
    /// Path of the auth method's mount, where it is not called as the method is
    #[arg(long, value_name = "PATH", global = true)]
    mount: Option<String>,
    #[command(subcommand)]
    method: Method,
}

#[derive(Debug, Subcommand)]
enum Method {
    /// By name and password
    Userpass {
        /// Who logs in
        user: String,
        /// File (0600) with the password; `-` is standard input. Without: the terminal asks
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// As a machine: by its role and a SecretID that was made for it
    Approle {
        /// What the role is called
        #[arg(long, value_name = "ID", required_unless_present = "role_id_file", conflicts_with = "role_id_file")]
        role_id: Option<String>,
        /// File with it
        #[arg(long, value_name = "FILE")]
        role_id_file: Option<PathBuf>,
        /// File (0600) with the SecretID, or its wrapping token; `-` is standard input
        #[arg(long, value_name = "FILE")]
        secret_id_file: PathBuf,
        /// The file holds a wrapping token, and what was not made at this path is refused
        #[arg(long, value_name = "PATH")]
        expect_path: Option<String>,
    },
    /// By a signed text of somebody else's
    Jwt {
        /// Role of the auth method that the text is for
        #[arg(long)]
        role: String,
        /// File with it; `-` is standard input
        #[arg(long, value_name = "FILE")]
        jwt_file: PathBuf,
    },
    /// As a person, by the browser and an OpenID provider
    Oidc(Browser),
    /// As a Kubernetes service account, by the token that was projected into the Pod
    Kubernetes {
        /// Role of the auth method
        #[arg(long)]
        role: String,
        /// File with the token, for the role's audience
        #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token")]
        jwt_file: PathBuf,
    },
    /// By the client certificate (--client-cert, --client-key); the token counts beside it alone
    Cert {
        /// Role of the auth method. Without: the first by name that takes the certificate
        #[arg(long, default_value = "")]
        role: String,
    },
    /// As a SPIFFE workload: by an X.509-SVID (--client-cert, --client-key) or a JWT-SVID
    Spiffe {
        /// Role of the auth method
        #[arg(long)]
        role: String,
        /// File with the JWT-SVID; `-` is standard input. Without: the client certificate is the SVID
        #[arg(long, value_name = "FILE")]
        jwt_file: Option<PathBuf>,
    },
    /// As a user or role of AWS: by the environment's credentials, the container's, or the instance's
    Aws {
        #[command(flatten)]
        aws: cloud::AwsArguments,
    },
    /// As a service account of Google's Compute Engine
    Gcp {
        #[command(flatten)]
        gcp: cloud::GcpArguments,
    },
    /// As a managed identity of Azure
    Azure {
        #[command(flatten)]
        azure: cloud::AzureArguments,
    },
    /// With a token that there is already: looks whether it lives, and keeps it
    Token {
        /// File (0600) with it; `-` is standard input. Without: the terminal asks
        #[arg(long = "file", value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

impl Arguments {
    pub async fn run(self) -> Result<Answer> {
        let login = self.method.login(self.mount.as_deref(), &self.connection).await?;
        let vault =
            Vault::login(self.connection.options_of_anybody()?, login).await.map_err(|refused| refused.error)?;
        let token = vault.token().context("the login gave no token")?;
        if self.print {
            let line = SecretBytes::init_with(token.len() + 1, |line| {
                let (text, end) = line.split_at_mut(token.len());
                text.copy_from_slice(token.expose());
                end.fill(b'\n');
            });
            return Ok(Answer::Line(line));
        }
        let home = std::env::home_dir().context("there is no home directory to keep the token in: use --print")?;
        let path = home.join(".strongroom-token");
        files::write_secret(&path, token.expose())?;
        let ends = vault.standing().ends.map(|ends| ends.saturating_duration_since(Instant::now()).as_secs());
        Ok(Answer::Record(Record::new().with("token_file", path.display().to_string()).with_some("ttl_secs", ends)))
    }
}

impl Method {
    async fn login(self, mount: Option<&str>, connection: &Connection) -> Result<Login> {
        let mount = |usual: &str| mount.unwrap_or(usual).trim_matches('/').trim_start_matches("auth/").to_owned();
        Ok(match self {
            Self::Userpass { user, password_file } => Login::Userpass {
                mount: mount("userpass"),
                password: asked(password_file.as_deref(), &format!("Password of {user}: ")).await?,
                user,
            },
            Self::Approle { role_id, role_id_file, secret_id_file, expect_path } => {
                let role_id = match (role_id, role_id_file) {
                    (Some(role_id), _) => Input::Given(SecretBytes::copy_from(role_id.as_bytes())),
                    (None, Some(file)) => Input::AnyFile(file),
                    (None, None) => return Err(Usage("name --role-id or --role-id-file".to_owned()).into()),
                };
                let input = asked(Some(&secret_id_file), "").await?;
                let secret_id = match expect_path {
                    None => SecretId::Plain(input),
                    Some(creation_path) => SecretId::Wrapped { token: input, creation_path },
                };
                Login::AppRole { mount: mount("approle"), role_id, secret_id }
            }
            Self::Jwt { role, jwt_file } if source::is_dash(&jwt_file) => {
                Login::Jwt { mount: mount("jwt"), role, jwt: asked(Some(&jwt_file), "").await? }
            }
            Self::Jwt { role, jwt_file } => Login::Jwt { mount: mount("jwt"), role, jwt: Input::AnyFile(jwt_file) },
            Self::Oidc(browser) => Login::Token(Input::Given(browser.token(connection, &mount("oidc")).await?)),
            Self::Kubernetes { role, jwt_file } => {
                Login::Jwt { mount: mount("kubernetes"), role, jwt: Input::AnyFile(jwt_file) }
            }
            Self::Cert { role } => Login::Cert { mount: mount("cert"), role },
            Self::Spiffe { role, jwt_file } => {
                let jwt = match jwt_file {
                    Some(file) if source::is_dash(&file) => Some(asked(Some(&file), "").await?),
                    file => file.map(Input::AnyFile),
                };
                Login::Spiffe { mount: mount("spiffe"), role, jwt }
            }
            Self::Aws { aws } => aws.login(mount("aws"))?,
            Self::Gcp { gcp } => gcp.login(mount("gcp")),
            Self::Azure { azure } => azure.login(mount("azure")),
            Self::Token { file } => Login::Token(asked(file.as_deref(), "Token: ").await?),
        })
    }
}

/// From the file, from standard input, or from who sits at the terminal.
async fn asked(file: Option<&Path>, prompt: &str) -> Result<Input> {
    let text = match file {
        Some(path) if source::is_dash(path) => {
            source::read_secret(path, SECRET_BYTES_MAX, "no password is so long").await?
        }
        Some(path) => return Ok(Input::File(path.to_owned())),
        None => {
            let typed = rpassword::prompt_password(prompt);
            let typed = typed.map_err(|_| Usage("there is no terminal to ask: name a file, or `-`".to_owned()))?;
            SecretBytes::from_vec(typed.into_bytes())
        }
    };
    let end = text.expose().trim_ascii_end().len();
    let mut text = text;
    text.truncate(end);
    Ok(Input::Given(text))
}

const SECRET_BYTES_MAX: usize = 16 << 10;
