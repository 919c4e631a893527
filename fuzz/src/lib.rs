//! What the fuzz targets do with their input, as plain functions, so that a test can replay the corpora.
//!
//! Always: a finding is a panic; what a parser takes goes back to bytes that mean the same.
//! Never: IO, or state from one input to the next.
#![forbid(unsafe_code)]

use envelope::sealed::{Body, Malformed, parse_barrier, parse_blob, parse_system, parse_token};
use envelope::stream::{CHUNK_BYTES, Decryptor, Encryptor, FileHeader, HEADER_BYTES_MIN, Prefix, SEALED_CHUNK_BYTES};
use envelope::suite1::{SealingKey, open};
use envelope::{EncryptionContext, Kind, Sealed, SecretBytes, SecretKey};
use hsm_api::frame::{FRAME_BYTES_MAX, FRAME_ITEMS_MAX, FrameWriter, decode_replies, decode_requests, next_frame};
use hsm_api::{HsmError, KeyToken, Reply};

/// Sealed values: all parsers, their way back to bytes, and opening under a key that never made them.
pub fn sealed(data: &[u8]) {
    type Parse = for<'a> fn(&'a [u8]) -> Result<Sealed<'a>, Malformed>;
    let parsers: [(Parse, Kind); 4] = [
        (parse_blob, Kind::CiphertextBlob),
        (parse_token, Kind::KeyToken),
        (parse_barrier, Kind::BarrierValue),
        (parse_system, Kind::BarrierValue),
    ];
    let key = SealingKey::new(&SecretKey::init_with(|key| key.fill(0xa5)));
    for (parse, kind) in parsers {
        let Ok(sealed) = parse(data) else { continue };
        assert_eq!(sealed.header.kind, kind);
        assert_eq!(sealed.to_bytes().as_deref(), Ok(data), "what parses goes back to the same bytes");
        assert!(open(&key, &sealed, &[0x5a; 32]).is_err(), "nobody sealed this");
        if let Body::Suite3 { binding, .. } = sealed.body {
            binding_of_a_token(binding);
        }
    }
    if let Ok(context) = EncryptionContext::from_canonical(data) {
        assert_eq!(context.canonical(), data);
    }
    binding_of_a_token(data);
    if let Ok(token) = KeyToken::parse([1; 16], data.to_vec().into()) {
        assert_eq!(token.bytes(), data);
    }
}

fn binding_of_a_token(data: &[u8]) {
    if let Some((binding, rest)) = hsm_api::KeyBinding::split_canonical(data) {
        assert_eq!([&binding.canonical()[..], rest].concat(), data);
    }
}

/// The boundary protocol: a stream of frames, read as requests and as replies, whichever side sends it.
pub fn hsm_frame(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((body, used))) = next_frame(rest) {
        assert!(body.len() <= FRAME_BYTES_MAX && used <= rest.len());
        requests(body);
        replies(body);
        rest = &rest[used..];
    }
    // without a length in front, so that the fuzzer need not find one
    let body = &data[..data.len().min(FRAME_BYTES_MAX)];
    requests(body);
    replies(body);
}

/// Fields that say "absent" may carry bytes that are dropped: the second encoding equals the first, not the input.
fn requests(body: &[u8]) {
    let Ok(incoming) = decode_requests(body) else { return };
    assert!(incoming.len() <= FRAME_ITEMS_MAX);
    let encode = |incoming: &[hsm_api::frame::IncomingRequest]| {
        let mut writer = FrameWriter::default();
        let mut written = 0;
        for item in incoming {
            let Ok(request) = &item.request else { continue };
            match writer.push_request(item.id, request) {
                Ok(fits) => assert!(fits, "what came in one frame fits one frame"),
                // its reply would fit none
                Err(error) => {
                    assert_eq!(error, HsmError::OutOfRange);
                    continue;
                }
            }
            written += 1;
        }
        (writer.finish().to_vec(), written)
    };
    let (first, written) = encode(&incoming);
    if written == 0 {
        return;
    }
    let again = decode_requests(frame_body(&first)).unwrap_or_default();
    assert_eq!(again.len(), written);
    assert!(again.iter().all(|item| item.request.is_ok()));
    assert_eq!(encode(&again).0, first);
}

fn replies(body: &[u8]) {
    let mut incoming = Vec::new();
    if decode_replies(body, |id, reply| incoming.push((id, reply))).is_err() {
        return;
    }
    assert!(incoming.len() <= FRAME_ITEMS_MAX);
    let encode = |incoming: &[(u32, Result<Reply, HsmError>)]| {
        let mut writer = FrameWriter::default();
        for (id, reply) in incoming {
            assert!(writer.push_reply(*id, reply), "what came in one frame fits one frame");
        }
        writer.finish().to_vec()
    };
    let first = encode(&incoming);
    if incoming.is_empty() {
        return;
    }
    let mut again = Vec::new();
    let decoded = decode_replies(frame_body(&first), |id, reply| again.push((id, reply)));
    assert_eq!((decoded, again.len()), (Ok(()), incoming.len()));
    assert_eq!(encode(&again), first);
}

fn frame_body(frame: &[u8]) -> &[u8] {
    match next_frame(frame) {
        Ok(Some((body, used))) if used == frame.len() => body,
        outcome => panic!("a frame that we made is not one: {outcome:?}"),
    }
}

/// Files: the header from every prefix that it names, chunks that nobody sealed, and the data as a plaintext.
pub fn file_format(data: &[u8]) {
    match FileHeader::parse(data) {
        Err(_) => {}
        Ok(Prefix::Needs(bytes)) => assert!(bytes > data.len() && bytes >= HEADER_BYTES_MIN),
        Ok(Prefix::Whole(header, used)) => {
            assert_eq!(header.to_bytes(), &data[..used]);
            assert!(matches!(FileHeader::parse(&data[..used - 1]), Ok(Prefix::Needs(bytes)) if bytes <= used));
            nothing_opens(&header, &data[used..]);
            comes_back(&header, data);
        }
    }
}

fn nothing_opens(header: &FileHeader, body: &[u8]) {
    let mut decryptor = Decryptor::new(&SecretBytes::copy_from(&[0xa5; 32]), header).expect("32 bytes are a data key");
    let mut out = Vec::new();
    let chunks = body.chunks(SEALED_CHUNK_BYTES).count();
    for (i, chunk) in body.chunks(SEALED_CHUNK_BYTES).enumerate() {
        assert!(decryptor.chunk(chunk, i + 1 == chunks, &mut out).is_err(), "nobody sealed this");
    }
    assert!(out.is_empty() && !decryptor.is_finished());
}

fn comes_back(header: &FileHeader, plaintext: &[u8]) {
    let data_key = SecretBytes::copy_from(&[0x5a; 32]);
    let mut encryptor = Encryptor::new(&data_key, header).expect("32 bytes are a data key");
    let mut decryptor = Decryptor::new(&data_key, header).expect("32 bytes are a data key");
    let (mut sealed, mut opened) = (Vec::new(), Vec::new());
    let chunks = plaintext.chunks(CHUNK_BYTES).count();
    for (i, chunk) in plaintext.chunks(CHUNK_BYTES).enumerate() {
        sealed.clear();
        assert_eq!(encryptor.chunk(chunk, i + 1 == chunks, &mut sealed), Ok(()));
        assert_eq!(decryptor.chunk(&sealed, i + 1 == chunks, &mut opened), Ok(()));
    }
    assert!(opened == plaintext && decryptor.is_finished());
}
