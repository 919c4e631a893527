//! What keys do.
//!
//! Plaintexts and messages come from files or standard input, never from arguments. Secrets go to a file, or to standard
//! output where `--show-plaintext` or `--out -` asks for it.

use super::{ContextArgument, KeyArgument};
use crate::cli::connection::Connection;
use crate::cli::new_file::{NewFile, Out, Prepared, Privacy, Replace};
use crate::cli::output::{Answer, Record};
use crate::cli::{Usage, source, values};
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use client::{Error, SecretBytes, take_secret};
use proto::kms;
use std::path::{Path, PathBuf};

/// How long a data key is.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct DataKeyLength {
    /// Length by name; default AES_256
    #[arg(long, value_name = "SPEC", ignore_case = true, value_parser = values::data_key_spec())]
    key_spec: Option<kms::DataKeySpec>,
    /// Length in bytes, 1 to 1024
    #[arg(long, value_name = "COUNT")]
    number_of_bytes: Option<u32>,
}

impl DataKeyLength {
    fn spec(&self) -> i32 {
        let default =
            if self.number_of_bytes.is_some() { kms::DataKeySpec::Unspecified } else { kms::DataKeySpec::Aes256 };
        self.key_spec.unwrap_or(default).into()
    }
}

/// Make a data key: in the clear for use now, sealed to be kept beside the data
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kms generate-data-key --key-id alias/invoices --context tenant=blue \\
      --plaintext-out data.key --ciphertext-out data.key.sealed
  strongroom kms generate-data-key --key-id alias/invoices --show-plaintext --output json

To encrypt a file there is `strongroom kms encrypt-file`.")]
pub struct GenerateDataKey {
    #[command(flatten)]
    key: KeyArgument,
    #[command(flatten)]
    length: DataKeyLength,
    #[command(flatten)]
    context: ContextArgument,
    /// Write the data key to this new file (0600)
    #[arg(long, value_name = "FILE", required_unless_present = "show_plaintext")]
    plaintext_out: Option<PathBuf>,
    /// Print the data key, in base64
    #[arg(long)]
    show_plaintext: bool,
    /// Write the sealed data key to this new file
    #[arg(long, value_name = "FILE")]
    ciphertext_out: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

impl GenerateDataKey {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let context = self.context.parse()?;
        let force = self.force;
        let open = |path: &'_ Option<PathBuf>| path.as_deref().map(|path| not_dash(path, force)).transpose();
        let (plaintext_to, ciphertext_to) = (open(&self.plaintext_out)?, open(&self.ciphertext_out)?);
        let request = kms::GenerateDataKeyRequest {
            key_id: self.key.key_id,
            key_spec: self.length.spec(),
            number_of_bytes: self.length.number_of_bytes,
            encryption_context: context.pairs().clone(),
        };
        let mut crypto = connection.connect().await?.crypto();
        let reply = crypto.generate_data_key(request).await.map_err(Error::from)?.into_inner();
        let plaintext = take_secret(reply.plaintext);
        let mut record = Record::new().with("key_id", reply.key_id).with("key_version", reply.key_version);
        // the sealed form first: without it the plaintext is worth nothing later
        if let (Some(file), Some(path)) = (ciphertext_to, &self.ciphertext_out) {
            let sealed = SecretBytes::copy_from(&reply.ciphertext_blob);
            record = Prepared::File(file, path).record(record, "ciphertext_out", &sealed, Privacy::Public)?;
        }
        record = record.with("ciphertext_blob", reply.ciphertext_blob);
        if let (Some(file), Some(path)) = (plaintext_to, &self.plaintext_out) {
            record = Prepared::File(file, path).record(record, "plaintext_out", &plaintext, Privacy::Secret)?;
        }
        Ok(Answer::Record(record.with_some("plaintext", Some(plaintext).filter(|_| self.show_plaintext))))
    }
}

fn not_dash(path: &Path, force: bool) -> Result<NewFile> {
    if source::is_dash(path) {
        return Err(
            Usage("two results do not fit on standard output: name files, or use --show-plaintext".into()).into()
        );
    }
    NewFile::create(path, Replace::when(force))
}

/// Make a data key that is needed later: sealed only
#[derive(Debug, Args)]
pub struct GenerateDataKeyWithoutPlaintext {
    #[command(flatten)]
    key: KeyArgument,
    #[command(flatten)]
    length: DataKeyLength,
    #[command(flatten)]
    context: ContextArgument,
    #[command(flatten)]
    out: Out,
}

impl GenerateDataKeyWithoutPlaintext {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let context = self.context.parse()?;
        let to = self.out.prepare()?;
        let request = kms::GenerateDataKeyWithoutPlaintextRequest {
            key_id: self.key.key_id,
            key_spec: self.length.spec(),
            number_of_bytes: self.length.number_of_bytes,
            encryption_context: context.pairs().clone(),
        };
        let mut crypto = connection.connect().await?.crypto();
        let reply = crypto.generate_data_key_without_plaintext(request).await.map_err(Error::from)?.into_inner();
        let record = Record::new().with("key_id", reply.key_id).with("key_version", reply.key_version);
        public(to, record, "ciphertext_blob", &reply.ciphertext_blob)
    }
}

/// Encrypt a short secret, up to 4096 bytes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kms encrypt --key-id alias/invoices --plaintext-file password --context purpose=smtp --out password.sealed
  printf %s \"$PASSWORD\" | strongroom kms encrypt --key-id alias/invoices --plaintext-file -

Anything longer: `strongroom kms encrypt-file`.")]
pub struct Encrypt {
    #[command(flatten)]
    key: KeyArgument,
    /// File with the plaintext; `-` is standard input
    #[arg(long, value_name = "FILE")]
    plaintext_file: PathBuf,
    #[command(flatten)]
    context: ContextArgument,
    #[command(flatten)]
    out: Out,
}

impl Encrypt {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let context = self.context.parse()?;
        let to = self.out.prepare()?;
        let beyond = "encrypt it with `strongroom kms encrypt-file`";
        let plaintext = source::read_secret(&self.plaintext_file, PLAINTEXT_BYTES_MAX, beyond).await?;
        let request = kms::EncryptRequest {
            key_id: self.key.key_id,
            plaintext: client::give_secret(plaintext),
            encryption_context: context.pairs().clone(),
        };
        let reply = connection.connect().await?.crypto().encrypt(request).await.map_err(Error::from)?.into_inner();
        let record = Record::new().with("key_id", reply.key_id).with("key_version", reply.key_version);
        public(to, record, "ciphertext_blob", &reply.ciphertext_blob)
    }
}

/// Open a ciphertext blob; it says itself which key it belongs to
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kms decrypt --ciphertext-file password.sealed --context purpose=smtp --out password
  strongroom kms decrypt --ciphertext-blob \"$BLOB\" --show-plaintext --output json")]
pub struct Decrypt {
    #[command(flatten)]
    ciphertext: source::Ciphertext,
    #[command(flatten)]
    context: ContextArgument,
    /// Refuse a blob of any other key
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    key_id: String,
    #[command(flatten)]
    to: SecretOut,
}

/// Where a secret goes. It must be said.
#[derive(Debug, Args)]
pub struct SecretOut {
    /// Write the secret to this new file (0600); `-` writes it, and nothing else, to standard output
    #[arg(long, value_name = "FILE", required_unless_present = "show_plaintext")]
    out: Option<PathBuf>,
    /// Print the secret, in base64
    #[arg(long, conflicts_with = "out")]
    show_plaintext: bool,
    /// Replace the file if it is there
    #[arg(long, requires = "out")]
    force: bool,
}

impl SecretOut {
    fn out(self) -> Out {
        Out { out: self.out, force: self.force }
    }
}

impl Decrypt {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let context = self.context.parse()?;
        let out = self.to.out();
        let to = out.prepare()?;
        let request = kms::DecryptRequest {
            ciphertext_blob: self.ciphertext.read().await?,
            encryption_context: context.pairs().clone(),
            key_id: self.key_id,
        };
        let reply = connection.connect().await?.crypto().decrypt(request).await.map_err(Error::from)?.into_inner();
        let record = Record::new().with("key_id", reply.key_id).with("key_version", reply.key_version);
        to.answer(record, "plaintext", take_secret(reply.plaintext), Privacy::Secret)
    }
}

/// Move a ciphertext blob to another key, version or context; the plaintext stays inside the boundary
#[derive(Debug, Args)]
#[command(after_help = "\
Example, after a rotation:
  strongroom kms re-encrypt --ciphertext-file old.sealed --destination-key-id alias/invoices \\
      --source-context purpose=smtp --destination-context purpose=smtp --out new.sealed")]
pub struct ReEncrypt {
    #[command(flatten)]
    ciphertext: source::Ciphertext,
    /// Refuse a blob of any other key
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    source_key_id: String,
    /// Pair of the context that the blob is bound to; repeat it for more
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::pair)]
    source_context: Vec<(String, String)>,
    /// Key id or alias/NAME that encrypts anew
    #[arg(long, value_name = "KEY")]
    destination_key_id: String,
    /// Pair of the context that the new blob is bound to; not taken over from the source
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::pair)]
    destination_context: Vec<(String, String)>,
    #[command(flatten)]
    out: Out,
}

impl ReEncrypt {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let (from, into) = (values::context(&self.source_context)?, values::context(&self.destination_context)?);
        let to = self.out.prepare()?;
        let request = kms::ReEncryptRequest {
            ciphertext_blob: self.ciphertext.read().await?,
            source_encryption_context: from.pairs().clone(),
            source_key_id: self.source_key_id,
            destination_key_id: self.destination_key_id,
            destination_encryption_context: into.pairs().clone(),
        };
        let reply = connection.connect().await?.crypto().re_encrypt(request).await.map_err(Error::from)?.into_inner();
        let record = Record::new()
            .with("source_key_id", reply.source_key_id)
            .with("key_id", reply.key_id)
            .with("key_version", reply.key_version);
        public(to, record, "ciphertext_blob", &reply.ciphertext_blob)
    }
}

/// What is signed.
#[derive(Debug, Args)]
pub struct Message {
    /// File with the message, or its digest, as it is; `-` is standard input
    #[arg(long, value_name = "FILE")]
    message_file: PathBuf,
    /// RAW: the message itself, up to 4096 bytes. DIGEST: its digest, as long as the algorithm's hash
    #[arg(long, value_name = "TYPE", default_value = "RAW", ignore_case = true, value_parser = values::message_type())]
    message_type: kms::MessageType,
    /// One of the key's signing_algorithms (`kms describe-key`)
    #[arg(long, value_name = "ALGORITHM", ignore_case = true, value_parser = values::signing_algorithm())]
    signing_algorithm: kms::SigningAlgorithmSpec,
}

impl Message {
    async fn read(&self) -> Result<Bytes> {
        let beyond = "give its digest, with --message-type DIGEST";
        Ok(client::give_secret(source::read_secret(&self.message_file, PLAINTEXT_BYTES_MAX, beyond).await?))
    }
}

/// Sign a message or its digest
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  openssl dgst -sha256 -binary release.tar |
  strongroom kms sign --key-id alias/release --signing-algorithm ECDSA_SHA_256 \\
      --message-file - --message-type DIGEST --out release.tar.sig")]
pub struct Sign {
    #[command(flatten)]
    key: KeyArgument,
    #[command(flatten)]
    message: Message,
    #[command(flatten)]
    out: Out,
}

impl Sign {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let to = self.out.prepare()?;
        let request = kms::SignRequest {
            message: self.message.read().await?,
            key_id: self.key.key_id,
            message_type: self.message.message_type.into(),
            signing_algorithm: self.message.signing_algorithm.into(),
        };
        let reply = connection.connect().await?.crypto().sign(request).await.map_err(Error::from)?.into_inner();
        let record = Record::new()
            .with("key_id", reply.key_id)
            .with("key_version", reply.key_version)
            .with("signing_algorithm", values::signing_algorithm_text(reply.signing_algorithm));
        public(to, record, "signature", &reply.signature)
    }
}

/// Tell whether a signature is the key's; exit 1 where it is not
#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    key: KeyArgument,
    #[command(flatten)]
    message: Message,
    #[command(flatten)]
    signature: source::Signature,
}

impl Verify {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let request = kms::VerifyRequest {
            message: self.message.read().await?,
            key_id: self.key.key_id,
            message_type: self.message.message_type.into(),
            signature: self.signature.read().await?,
            signing_algorithm: self.message.signing_algorithm.into(),
        };
        let reply = connection.connect().await?.crypto().verify(request).await.map_err(Error::from)?.into_inner();
        let record = Record::new()
            .with("key_id", reply.key_id)
            .with("signature_valid", reply.signature_valid)
            .with("signing_algorithm", values::signing_algorithm_text(reply.signing_algorithm));
        Ok(yes_or_no(reply.signature_valid, record))
    }
}

/// Give out the public half of a signing key
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  strongroom kms get-public-key --key-id alias/release > release.pem
  openssl dgst -sha256 -verify release.pem -signature release.tar.sig release.tar")]
pub struct GetPublicKey {
    #[command(flatten)]
    key: KeyArgument,
    /// Encoding of the SubjectPublicKeyInfo
    #[arg(long, value_name = "FORMAT", default_value = "pem")]
    format: KeyFormat,
    #[command(flatten)]
    out: Out,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KeyFormat {
    Pem,
    Der,
}

impl GetPublicKey {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let to = self.out.prepare()?;
        let request = kms::GetPublicKeyRequest { key_id: self.key.key_id };
        let mut crypto = connection.connect().await?.crypto();
        let reply = crypto.get_public_key(request).await.map_err(Error::from)?.into_inner();
        let algorithms = reply.signing_algorithms.into_iter().map(values::signing_algorithm_text);
        let record = Record::new()
            .with("key_id", reply.key_id)
            .with("key_version", reply.key_version)
            .with("key_spec", values::key_spec_text(reply.key_spec))
            .with("key_usage", values::key_usage_text(reply.key_usage))
            .with("signing_algorithms", algorithms.collect::<Vec<_>>());
        let pem = pem(&reply.public_key);
        match (to, self.format) {
            (Prepared::Shown, KeyFormat::Pem) => {
                let record = record.with("public_key", reply.public_key).with("public_key_pem", pem.clone());
                Ok(Answer::Text { text: pem, record })
            }
            (to, KeyFormat::Pem) => public(to, record, "public_key", pem.as_bytes()),
            (to, KeyFormat::Der) => public(to, record, "public_key", &reply.public_key),
        }
    }
}

/// RFC 7468 §13: SubjectPublicKeyInfo, lines of 64 characters.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = "-----BEGIN PUBLIC KEY-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.extend([line, "\n"]);
        rest = tail;
    }
    out + "-----END PUBLIC KEY-----\n"
}

/// What is authenticated.
#[derive(Debug, Args)]
pub struct MacMessage {
    /// File with the message, up to 4096 bytes; `-` is standard input
    #[arg(long, value_name = "FILE")]
    message_file: PathBuf,
    #[arg(long, value_name = "ALGORITHM", default_value = "HMAC_SHA_256", ignore_case = true, value_parser = values::mac_algorithm())]
    mac_algorithm: kms::MacAlgorithmSpec,
}

impl MacMessage {
    async fn read(&self) -> Result<Bytes> {
        let beyond = "authenticate its digest instead";
        Ok(client::give_secret(source::read_secret(&self.message_file, PLAINTEXT_BYTES_MAX, beyond).await?))
    }
}

/// Make a message authentication code
#[derive(Debug, Args)]
pub struct GenerateMac {
    #[command(flatten)]
    key: KeyArgument,
    #[command(flatten)]
    message: MacMessage,
    #[command(flatten)]
    out: Out,
}

impl GenerateMac {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let to = self.out.prepare()?;
        let request = kms::GenerateMacRequest {
            message: self.message.read().await?,
            key_id: self.key.key_id,
            mac_algorithm: self.message.mac_algorithm.into(),
        };
        let mut crypto = connection.connect().await?.crypto();
        let reply = crypto.generate_mac(request).await.map_err(Error::from)?.into_inner();
        let record = Record::new()
            .with("key_id", reply.key_id)
            .with("key_version", reply.key_version)
            .with("mac_algorithm", values::mac_algorithm_text(reply.mac_algorithm));
        public(to, record, "mac", &reply.mac)
    }
}

/// Tell whether a message authentication code is the key's; exit 1 where it is not
#[derive(Debug, Args)]
pub struct VerifyMac {
    #[command(flatten)]
    key: KeyArgument,
    #[command(flatten)]
    message: MacMessage,
    #[command(flatten)]
    mac: source::Mac,
}

impl VerifyMac {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let request = kms::VerifyMacRequest {
            message: self.message.read().await?,
            key_id: self.key.key_id,
            mac_algorithm: self.message.mac_algorithm.into(),
            mac: self.mac.read().await?,
        };
        let mut crypto = connection.connect().await?.crypto();
        let reply = crypto.verify_mac(request).await.map_err(Error::from)?.into_inner();
        let record = Record::new()
            .with("key_id", reply.key_id)
            .with("mac_valid", reply.mac_valid)
            .with("mac_algorithm", values::mac_algorithm_text(reply.mac_algorithm));
        Ok(yes_or_no(reply.mac_valid, record))
    }
}

/// Random bytes from the boundary's generator
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom kms generate-random --number-of-bytes 32 --out seed
  strongroom kms generate-random --number-of-bytes 16 --show-plaintext")]
pub struct GenerateRandom {
    /// How many, 1 to 1024
    #[arg(long, value_name = "COUNT")]
    number_of_bytes: u32,
    #[command(flatten)]
    to: SecretOut,
}

impl GenerateRandom {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        let out = self.to.out();
        let to = out.prepare()?;
        let request = kms::GenerateRandomRequest { number_of_bytes: self.number_of_bytes };
        let mut crypto = connection.connect().await?.crypto();
        let reply = crypto.generate_random(request).await.map_err(Error::from)?.into_inner();
        to.answer(Record::new(), "plaintext", take_secret(reply.plaintext), Privacy::Secret)
    }
}

fn public(to: Prepared<'_>, record: Record, name: &'static str, bytes: &[u8]) -> Result<Answer> {
    to.answer(record, name, SecretBytes::copy_from(bytes), Privacy::Public)
}

fn yes_or_no(yes: bool, record: Record) -> Answer {
    if yes { Answer::Record(record) } else { Answer::No(record) }
}

/// Longest plaintext or message that the API takes.
const PLAINTEXT_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_lines_of_64_characters() {
        let text = pem(&[0xff; 91]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.iter().map(|line| line.len()).collect::<Vec<_>>(), [26, 64, 60, 24]);
        let read = rustls_pki_types::pem::PemObject::from_pem_slice(text.as_bytes());
        let read: rustls_pki_types::SubjectPublicKeyInfoDer<'_> = read.unwrap();
        assert_eq!(&read[..], [0xff; 91]);
    }
}
