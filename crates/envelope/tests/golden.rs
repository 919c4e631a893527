//! Golden files: fixed inputs give the fixed bytes, and the fixed bytes give the inputs back. For ever.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use envelope::context::canonical_pairs;
use envelope::sealed::{Body, parse_barrier, parse_blob, parse_system, parse_token};
use envelope::stream::{CHUNK_BYTES, Decryptor, Encryptor, FileHeader, Prefix, SEALED_CHUNK_BYTES};
use envelope::suite1::{SealingKey, open, seal};
use envelope::{EncryptionContext, Header, Kind, SecretBytes, SecretKey, Suite, mac};

const PLAINTEXT: &[u8] = b"Strongroom golden plaintext";

fn hexadecimal(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

/// `N` bytes counting up from `first`.
fn run<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first.wrapping_add(u8::try_from(i).unwrap()))
}

fn secret_key() -> SecretKey {
    SecretKey::init_with(|key| *key = run(0x40))
}

fn header(kind: Kind, suite: Suite, key_version: u32, generation: u32) -> Header {
    Header { kind, suite, key_id: run(0x00), key_version, domain_id: run(0x10), generation }
}

fn context() -> EncryptionContext {
    EncryptionContext::parse([("é", "ü"), ("purpose", "golden")]).unwrap()
}

/// The binding inside the golden key token, as canonical pairs.
fn binding() -> Vec<u8> {
    let (domain_id, key_id, tenant): ([u8; 16], [u8; 16], [u8; 16]) = (run(0x10), run(0x00), run(0x80));
    let pairs: [(&[u8], &[u8]); 11] = [
        (b"domain_id", &domain_id),
        (b"export", &[1]),
        (b"generation", &[0, 0, 0, 3]),
        (b"key_id", &key_id),
        (b"level", &[1]),
        (b"not_after", &[0xff; 8]),
        (b"origin", &[1]),
        (b"spec", &[1]),
        (b"tenant", &tenant),
        (b"usage", &[1]),
        (b"version", &[0, 0, 0, 7]),
    ];
    canonical_pairs(pairs.into_iter())
}

#[test]
fn the_canonical_context_is_as_it_was() {
    let golden = hexadecimal(include_str!("golden/context.hex"));
    assert_eq!(hex::encode(context().canonical()), hex::encode(&golden));
    assert_eq!(EncryptionContext::from_canonical(&golden).unwrap(), context());
}

#[test]
fn suite_1_seals_and_opens_as_it_did() {
    let token_plaintext = [&binding()[..], &run::<32>(0xa0)].concat();
    let tenant_digest = mac::sha256(&canonical_pairs([(&b"tenant"[..], &run::<16>(0x80)[..])].into_iter()));
    let key = SealingKey::new(&secret_key());
    for (golden, header, digest, plaintext) in [
        (
            include_str!("golden/blob_suite1.hex"),
            header(Kind::CiphertextBlob, Suite::KdfCommitGcm, 7, 0),
            context().digest(),
            PLAINTEXT,
        ),
        (
            include_str!("golden/token_suite1.hex"),
            header(Kind::KeyToken, Suite::KdfCommitGcm, 7, 3),
            tenant_digest,
            &token_plaintext,
        ),
        (
            include_str!("golden/barrier.hex"),
            header(Kind::BarrierValue, Suite::KdfCommitGcm, 1, 5),
            run(0x60),
            PLAINTEXT,
        ),
    ] {
        let golden = hexadecimal(golden);
        let sealed = seal(&key, &header, &run(0x20), &run(0x30), &digest, plaintext);
        assert_eq!(hex::encode(sealed), hex::encode(&golden), "{:?}", header.kind);
        let parsed = match header.kind {
            Kind::CiphertextBlob => parse_blob(&golden),
            Kind::KeyToken => parse_token(&golden),
            Kind::BarrierValue => parse_barrier(&golden),
        };
        let parsed = parsed.unwrap();
        assert_eq!((parsed.header, parsed.to_bytes().unwrap()), (header, golden.clone()));
        assert_eq!(open(&key, &parsed, &digest).unwrap().expose(), plaintext, "{:?}", header.kind);
    }
}

#[test]
fn suite_2_is_laid_out_as_it_was() {
    for (golden, iv) in [
        (include_str!("golden/blob_suite2_iv12.hex"), &run::<12>(0x30)[..]),
        (include_str!("golden/blob_suite2_iv16.hex"), &run::<16>(0x30)),
    ] {
        let golden = hexadecimal(golden);
        let parsed = parse_blob(&golden).unwrap();
        assert_eq!(parsed.header, header(Kind::CiphertextBlob, Suite::TokenGcm, 7, 0));
        let Body::Suite2 { iv: parsed_iv, ciphertext } = parsed.body else { panic!("suite 2") };
        assert_eq!((parsed_iv, parsed.to_bytes().unwrap()), (iv, golden.clone()));
        assert_eq!(ciphertext.len(), 32 + PLAINTEXT.len() + 16);
        assert!(parse_token(&golden).is_err() && parse_barrier(&golden).is_err() && parse_system(&golden).is_err());
        // AES-GCM with an IV of 16 bytes is the token's own; the one of 12 bytes opens here
        let Ok(nonce) = <[u8; 12]>::try_from(iv) else { continue };
        let aad = [&parsed.header_bytes[..], &context().digest()].concat();
        let (sealed, tag) = ciphertext.split_last_chunk::<16>().unwrap();
        let mut opened = sealed.to_vec();
        let cipher = Aes256Gcm::new_from_slice(secret_key().expose()).unwrap();
        cipher.decrypt_inout_detached(&nonce.into(), &aad, opened.as_mut_slice().into(), tag.into()).unwrap();
        assert_eq!(opened, [&[0; 32], PLAINTEXT].concat());
    }
}

#[test]
fn suite_3_is_laid_out_as_it_was() {
    let golden = hexadecimal(include_str!("golden/token_suite3.hex"));
    let parsed = parse_token(&golden).unwrap();
    assert_eq!(parsed.header, header(Kind::KeyToken, Suite::ResidentReference, 7, 0));
    let signed = &golden[..golden.len() - 32];
    let expected = Body::Suite3 {
        cka_id: &run(0x50),
        check_value: &run(0x60),
        binding: &binding(),
        mac: &mac::hmac_sha256(&secret_key(), &[signed]),
    };
    assert_eq!((parsed.body, parsed.to_bytes().unwrap()), (expected, golden.clone()));
    assert!(parse_blob(&golden).is_err() && parse_barrier(&golden).is_err() && parse_system(&golden).is_err());
}

#[test]
fn files_are_sealed_and_open_as_they_did() {
    let data_key = SecretBytes::copy_from(&run::<32>(0xc0));
    let key = SealingKey::new(&secret_key());
    let blob_header = header(Kind::CiphertextBlob, Suite::KdfCommitGcm, 7, 0);
    let blob = seal(&key, &blob_header, &run(0x20), &run(0x30), &context().digest(), data_key.expose());
    let header = FileHeader::new(blob.clone(), run(0x90)).unwrap();
    let two_chunks: Vec<u8> = (0..CHUNK_BYTES + 5).map(|i| u8::try_from(i % 251).unwrap()).collect();
    for (name, golden, plaintext) in [
        ("empty", hexadecimal(include_str!("golden/file_empty.hex")), &[][..]),
        ("small", hexadecimal(include_str!("golden/file_small.hex")), PLAINTEXT),
        ("two chunks", include_bytes!("golden/file_two_chunks.bin").to_vec(), &two_chunks),
    ] {
        let count = plaintext.len().div_ceil(CHUNK_BYTES).max(1);
        let mut encryptor = Encryptor::new(&data_key, &header).unwrap();
        let mut file = header.to_bytes();
        for i in 0..count {
            let piece = &plaintext[i * CHUNK_BYTES..plaintext.len().min((i + 1) * CHUNK_BYTES)];
            encryptor.chunk(piece, i + 1 == count, &mut file).unwrap();
        }
        assert!(file == golden, "{name}: sealed otherwise than before");

        let Ok(Prefix::Whole(parsed, used)) = FileHeader::parse(&golden) else { panic!("{name}: no header") };
        assert_eq!((&parsed, parsed.blob()), (&header, &blob[..]), "{name}");
        let mut decryptor = Decryptor::new(&data_key, &parsed).unwrap();
        let mut opened = Vec::new();
        let chunks: Vec<&[u8]> = golden[used..].chunks(SEALED_CHUNK_BYTES).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            decryptor.chunk(chunk, i + 1 == chunks.len(), &mut opened).unwrap();
        }
        assert!(opened == plaintext && decryptor.is_finished(), "{name}: opened otherwise than before");
    }
}
