//! Handlers of `Crypto`: decode, call, encode.

use super::codec::{self, crypto as code};
use super::{Answer, Face};
use crate::gate::enter;
use proto::kms as pb;
use proto::kms::crypto_server::Crypto;
use tonic::Request;

#[tonic::async_trait]
impl Crypto for Face {
    async fn generate_data_key(
        &self,
        request: Request<pb::GenerateDataKeyRequest>,
    ) -> Answer<pb::GenerateDataKeyResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::generate_data_key(message)).await?;
        let outcome = ticket.on_lane(&self.kms).generate_data_key(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::generated_data_key)
    }

    async fn generate_data_key_without_plaintext(
        &self,
        request: Request<pb::GenerateDataKeyWithoutPlaintextRequest>,
    ) -> Answer<pb::GenerateDataKeyWithoutPlaintextResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::generate_data_key_without_plaintext(message)).await?;
        let outcome =
            ticket.on_lane(&self.kms).generate_data_key_without_plaintext(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, |key| pb::GenerateDataKeyWithoutPlaintextResponse {
            key_id: key.key_id.to_string(),
            key_version: key.key_version,
            ciphertext_blob: key.ciphertext_blob,
        })
    }

    async fn encrypt(&self, request: Request<pb::EncryptRequest>) -> Answer<pb::EncryptResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::encrypt(message)).await?;
        let outcome = ticket.on_lane(&self.kms).encrypt(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::encrypted)
    }

    async fn decrypt(&self, request: Request<pb::DecryptRequest>) -> Answer<pb::DecryptResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::decrypt(message)).await?;
        let outcome = ticket.on_lane(&self.kms).decrypt(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::decrypted)
    }

    async fn re_encrypt(&self, request: Request<pb::ReEncryptRequest>) -> Answer<pb::ReEncryptResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::re_encrypt(message)).await?;
        let outcome = ticket.on_lane(&self.kms).re_encrypt(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::re_encrypted)
    }

    async fn sign(&self, request: Request<pb::SignRequest>) -> Answer<pb::SignResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::sign(message)).await?;
        let outcome = ticket.on_lane(&self.kms).sign(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::signed)
    }

    async fn verify(&self, request: Request<pb::VerifyRequest>) -> Answer<pb::VerifyResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::verify(message)).await?;
        let outcome = ticket.on_lane(&self.kms).verify(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::verified)
    }

    async fn get_public_key(&self, request: Request<pb::GetPublicKeyRequest>) -> Answer<pb::GetPublicKeyResponse> {
        let (ticket, message) = enter(request)?;
        let key = ticket.parsed(codec::key(&message.key_id, "key_id")).await?;
        let outcome = ticket.on_lane(&self.kms).public_key(ticket.by(), ticket.call(), &key).await;
        ticket.answer(outcome, code::public_key)
    }

    async fn generate_mac(&self, request: Request<pb::GenerateMacRequest>) -> Answer<pb::GenerateMacResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::generate_mac(message)).await?;
        let outcome = ticket.on_lane(&self.kms).generate_mac(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::generated_mac)
    }

    async fn verify_mac(&self, request: Request<pb::VerifyMacRequest>) -> Answer<pb::VerifyMacResponse> {
        let (ticket, message) = enter(request)?;
        let command = ticket.parsed(code::verify_mac(message)).await?;
        let outcome = ticket.on_lane(&self.kms).verify_mac(ticket.by(), ticket.call(), command).await;
        ticket.answer(outcome, code::mac_verified)
    }

    async fn generate_random(&self, request: Request<pb::GenerateRandomRequest>) -> Answer<pb::GenerateRandomResponse> {
        let (ticket, message) = enter(request)?;
        let outcome =
            ticket.on_lane(&self.kms).generate_random(ticket.by(), ticket.call(), message.number_of_bytes).await;
        ticket.answer(outcome, |random| pb::GenerateRandomResponse { plaintext: codec::secret::wiped_after(random) })
    }

    async fn batch_generate_data_key(
        &self,
        request: Request<pb::BatchGenerateDataKeyRequest>,
    ) -> Answer<pb::BatchGenerateDataKeyResponse> {
        let (ticket, message) = enter(request)?;
        let items = ticket.parsed(code::batch(message.items, code::generate_data_key)).await?;
        let outcome = ticket.on_lane(&self.kms).batch_generate_data_key(ticket.by(), ticket.call(), items).await;
        ticket.answer(outcome, code::data_key_results)
    }

    async fn batch_encrypt(&self, request: Request<pb::BatchEncryptRequest>) -> Answer<pb::BatchEncryptResponse> {
        let (ticket, message) = enter(request)?;
        let items = ticket.parsed(code::batch_encrypt(message.items)).await?;
        let outcome = ticket.on_lane(&self.kms).batch_encrypt(ticket.by(), ticket.call(), items).await;
        ticket.answer(outcome, code::encrypt_results)
    }

    async fn batch_decrypt(&self, request: Request<pb::BatchDecryptRequest>) -> Answer<pb::BatchDecryptResponse> {
        let (ticket, message) = enter(request)?;
        let items = ticket.parsed(code::batch(message.items, code::decrypt)).await?;
        let outcome = ticket.on_lane(&self.kms).batch_decrypt(ticket.by(), ticket.call(), items).await;
        ticket.answer(outcome, code::decrypt_results)
    }
}
