//! Messages of `Crypto`.

use super::secret::{take, wipe, wiped_after};
use super::{context, key, key_if_given, key_spec, key_usage, known, signing_algorithm, signing_algorithm_from};
use crate::kms_grpc::error::Refusal;
use bytes::Bytes;
use kms::{
    BATCH_ITEMS_MAX, DataKeyBytes, Decrypt, Decrypted, Encrypt, Encrypted, GenerateDataKey,
    GenerateDataKeyWithoutPlaintext, GenerateMac, GeneratedDataKey, GeneratedMac, KmsError, MacAlgorithm, MacVerified,
    MessageType, PublicKey, ReEncrypt, ReEncrypted, Sign, Signed, Verified, Verify, VerifyMac,
};
use proto::kms as pb;
use proto::kms::{batch_decrypt_response, batch_encrypt_response, batch_generate_data_key_response};

pub(crate) fn generate_data_key(message: pb::GenerateDataKeyRequest) -> Result<GenerateDataKey, KmsError> {
    Ok(GenerateDataKey {
        key: key(&message.key_id, "key_id")?,
        length: data_key_bytes(message.key_spec, message.number_of_bytes)?,
        context: context(message.encryption_context, "encryption_context")?,
    })
}

pub(crate) fn generate_data_key_without_plaintext(
    message: pb::GenerateDataKeyWithoutPlaintextRequest,
) -> Result<GenerateDataKeyWithoutPlaintext, KmsError> {
    Ok(GenerateDataKeyWithoutPlaintext {
        key: key(&message.key_id, "key_id")?,
        length: data_key_bytes(message.key_spec, message.number_of_bytes)?,
        context: context(message.encryption_context, "encryption_context")?,
    })
}

/// Exactly one of the two is set.
fn data_key_bytes(key_spec: i32, number_of_bytes: Option<u32>) -> Result<DataKeyBytes, KmsError> {
    match (known(key_spec, "key_spec")?, number_of_bytes) {
        (pb::DataKeySpec::Unspecified, Some(number)) => DataKeyBytes::parse(number),
        (pb::DataKeySpec::Aes256, None) => Ok(DataKeyBytes::AES_256),
        (pb::DataKeySpec::Aes128, None) => Ok(DataKeyBytes::AES_128),
        (pb::DataKeySpec::Unspecified, None) => Err(KmsError::InvalidField("key_spec")),
        (pb::DataKeySpec::Aes256 | pb::DataKeySpec::Aes128, Some(_)) => Err(KmsError::InvalidField("number_of_bytes")),
    }
}

pub(crate) fn generated_data_key(key: GeneratedDataKey) -> pb::GenerateDataKeyResponse {
    pb::GenerateDataKeyResponse {
        key_id: key.key_id.to_string(),
        key_version: key.key_version,
        plaintext: wiped_after(key.plaintext),
        ciphertext_blob: key.ciphertext_blob,
    }
}

pub(crate) fn encrypt(mut message: pb::EncryptRequest) -> Result<Encrypt, KmsError> {
    // the secret first: it is wiped whatever becomes of the rest
    let plaintext = take(std::mem::take(&mut message.plaintext));
    encrypt_of(plaintext, message)
}

fn encrypt_of(plaintext: envelope::SecretBytes, message: pb::EncryptRequest) -> Result<Encrypt, KmsError> {
    Ok(Encrypt {
        key: key(&message.key_id, "key_id")?,
        plaintext,
        context: context(message.encryption_context, "encryption_context")?,
    })
}

pub(crate) fn encrypted(encrypted: Encrypted) -> pb::EncryptResponse {
    pb::EncryptResponse {
        key_id: encrypted.key_id.to_string(),
        key_version: encrypted.key_version,
        ciphertext_blob: encrypted.ciphertext_blob,
    }
}

pub(crate) fn decrypt(message: pb::DecryptRequest) -> Result<Decrypt, KmsError> {
    Ok(Decrypt {
        ciphertext_blob: message.ciphertext_blob,
        context: context(message.encryption_context, "encryption_context")?,
        key: key_if_given(&message.key_id, "key_id")?,
    })
}

pub(crate) fn decrypted(decrypted: Decrypted) -> pb::DecryptResponse {
    pb::DecryptResponse {
        key_id: decrypted.key_id.to_string(),
        key_version: decrypted.key_version,
        plaintext: wiped_after(decrypted.plaintext),
    }
}

pub(crate) fn re_encrypt(message: pb::ReEncryptRequest) -> Result<ReEncrypt, KmsError> {
    Ok(ReEncrypt {
        ciphertext_blob: message.ciphertext_blob,
        source_context: context(message.source_encryption_context, "source_encryption_context")?,
        source_key: key_if_given(&message.source_key_id, "source_key_id")?,
        destination_key: key(&message.destination_key_id, "destination_key_id")?,
        destination_context: context(message.destination_encryption_context, "destination_encryption_context")?,
    })
}

pub(crate) fn re_encrypted(moved: ReEncrypted) -> pb::ReEncryptResponse {
    pb::ReEncryptResponse {
        ciphertext_blob: moved.ciphertext_blob,
        source_key_id: moved.source_key_id.to_string(),
        key_id: moved.key_id.to_string(),
        key_version: moved.key_version,
    }
}

fn message_type(raw: i32) -> Result<MessageType, KmsError> {
    Ok(match known(raw, "message_type")? {
        pb::MessageType::Unspecified | pb::MessageType::Raw => MessageType::Raw,
        pb::MessageType::Digest => MessageType::Digest,
    })
}

pub(crate) fn sign(message: pb::SignRequest) -> Result<Sign, KmsError> {
    Ok(Sign {
        key: key(&message.key_id, "key_id")?,
        message_type: message_type(message.message_type)?,
        algorithm: signing_algorithm_from(message.signing_algorithm)?,
        message: message.message,
    })
}

pub(crate) fn signed(signed: Signed) -> pb::SignResponse {
    pb::SignResponse {
        key_id: signed.key_id.to_string(),
        key_version: signed.key_version,
        signature: signed.signature,
        signing_algorithm: signing_algorithm(signed.algorithm).into(),
    }
}

pub(crate) fn verify(message: pb::VerifyRequest) -> Result<Verify, KmsError> {
    Ok(Verify {
        key: key(&message.key_id, "key_id")?,
        message_type: message_type(message.message_type)?,
        algorithm: signing_algorithm_from(message.signing_algorithm)?,
        message: message.message,
        signature: message.signature,
    })
}

pub(crate) fn verified(verified: Verified) -> pb::VerifyResponse {
    pb::VerifyResponse {
        key_id: verified.key_id.to_string(),
        signature_valid: verified.signature_valid,
        signing_algorithm: signing_algorithm(verified.algorithm).into(),
    }
}

pub(crate) fn public_key(key: PublicKey) -> pb::GetPublicKeyResponse {
    pb::GetPublicKeyResponse {
        key_id: key.key_id.to_string(),
        key_version: key.key_version,
        public_key: key.public_key,
        key_spec: key_spec(key.spec).into(),
        key_usage: key_usage(key.usage).into(),
        signing_algorithms: key.algorithms.iter().map(|one| signing_algorithm(*one).into()).collect(),
    }
}

pub(crate) fn mac_algorithm(algorithm: MacAlgorithm) -> pb::MacAlgorithmSpec {
    match algorithm {
        MacAlgorithm::HmacSha256 => pb::MacAlgorithmSpec::HmacSha256,
    }
}

fn mac_algorithm_from(raw: i32) -> Result<MacAlgorithm, KmsError> {
    match known(raw, "mac_algorithm")? {
        pb::MacAlgorithmSpec::Unspecified => Err(KmsError::InvalidField("mac_algorithm")),
        pb::MacAlgorithmSpec::HmacSha256 => Ok(MacAlgorithm::HmacSha256),
    }
}

pub(crate) fn generate_mac(message: pb::GenerateMacRequest) -> Result<GenerateMac, KmsError> {
    let secret = take(message.message);
    Ok(GenerateMac {
        key: key(&message.key_id, "key_id")?,
        message: secret,
        algorithm: mac_algorithm_from(message.mac_algorithm)?,
    })
}

pub(crate) fn generated_mac(generated: GeneratedMac) -> pb::GenerateMacResponse {
    pb::GenerateMacResponse {
        key_id: generated.key_id.to_string(),
        key_version: generated.key_version,
        mac: Bytes::copy_from_slice(&generated.mac),
        mac_algorithm: mac_algorithm(generated.algorithm).into(),
    }
}

pub(crate) fn verify_mac(message: pb::VerifyMacRequest) -> Result<VerifyMac, KmsError> {
    // the code shares the secret's buffer, which can be wiped only when nobody else looks at it
    let mac = Bytes::copy_from_slice(&message.mac);
    drop(message.mac);
    let secret = take(message.message);
    Ok(VerifyMac {
        key: key(&message.key_id, "key_id")?,
        message: secret,
        algorithm: mac_algorithm_from(message.mac_algorithm)?,
        mac,
    })
}

pub(crate) fn mac_verified(verified: MacVerified) -> pb::VerifyMacResponse {
    pb::VerifyMacResponse {
        key_id: verified.key_id.to_string(),
        mac_valid: verified.mac_valid,
        mac_algorithm: mac_algorithm(verified.algorithm).into(),
    }
}

/// Items one by one; the batch as a whole is refused only for their number.
pub(crate) fn batch<M, C>(
    items: Vec<M>,
    decode: impl FnMut(M) -> Result<C, KmsError>,
) -> Result<Vec<Result<C, KmsError>>, KmsError> {
    if !(1..=BATCH_ITEMS_MAX).contains(&items.len()) {
        return Err(KmsError::InvalidField("items"));
    }
    Ok(items.into_iter().map(decode).collect())
}

pub(crate) fn batch_encrypt(mut items: Vec<pb::EncryptRequest>) -> Result<Vec<Result<Encrypt, KmsError>>, KmsError> {
    // all plaintexts are slices of one buffer: copied out first, then wiped together
    let decoded: Vec<Bytes> = items.iter_mut().map(|item| std::mem::take(&mut item.plaintext)).collect();
    let mut secrets =
        decoded.iter().map(|plaintext| envelope::SecretBytes::copy_from(plaintext)).collect::<Vec<_>>().into_iter();
    wipe(decoded);
    batch(items, |item| {
        secrets
            .next()
            .ok_or(KmsError::Internal("an item without a plaintext"))
            .and_then(|plaintext| encrypt_of(plaintext, item))
    })
}

fn item_error(error: KmsError) -> pb::ItemError {
    Refusal::from(error).item()
}

pub(crate) fn data_key_results(results: Vec<Result<GeneratedDataKey, KmsError>>) -> pb::BatchGenerateDataKeyResponse {
    use batch_generate_data_key_response::{Result as Item, result::Outcome};
    let outcome = |result: Result<_, _>| match result {
        Ok(key) => Outcome::Response(generated_data_key(key)),
        Err(error) => Outcome::Error(item_error(error)),
    };
    let results = results.into_iter().map(|result| Item { outcome: Some(outcome(result)) });
    pb::BatchGenerateDataKeyResponse { results: results.collect() }
}

pub(crate) fn encrypt_results(results: Vec<Result<Encrypted, KmsError>>) -> pb::BatchEncryptResponse {
    use batch_encrypt_response::{Result as Item, result::Outcome};
    let outcome = |result: Result<_, _>| match result {
        Ok(done) => Outcome::Response(encrypted(done)),
        Err(error) => Outcome::Error(item_error(error)),
    };
    let results = results.into_iter().map(|result| Item { outcome: Some(outcome(result)) });
    pb::BatchEncryptResponse { results: results.collect() }
}

pub(crate) fn decrypt_results(results: Vec<Result<Decrypted, KmsError>>) -> pb::BatchDecryptResponse {
    use batch_decrypt_response::{Result as Item, result::Outcome};
    let outcome = |result: Result<_, _>| match result {
        Ok(done) => Outcome::Response(decrypted(done)),
        Err(error) => Outcome::Error(item_error(error)),
    };
    let results = results.into_iter().map(|result| Item { outcome: Some(outcome(result)) });
    pb::BatchDecryptResponse { results: results.collect() }
}
