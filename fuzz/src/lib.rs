//! What the fuzz targets do with their input, as plain functions, so that a test can replay the corpora.
//!
//! Always: a finding is a panic; what a parser takes goes back to bytes that mean the same.
//! Never: IO, or state from one input to the next.
#![forbid(unsafe_code)]

mod audit_log;
mod audit_note;
mod aws;
mod jwt;
mod kubernetes;

pub use audit_log::audit_log;
pub use audit_note::audit_note;
pub use aws::aws;
pub use jwt::jwt;
pub use kubernetes::kubernetes_review;
mod svid;
pub use svid::{ocsp, spiffe, x509};

use audit::Ack;
use audit::record::{Entry, PeriodKeys, SealedPeriodKey, finish, is_entry};
use envelope::ManualClock;
use envelope::sealed::{Body, Malformed, parse_barrier, parse_blob, parse_system, parse_token};
use envelope::stream::{CHUNK_BYTES, Decryptor, Encryptor, FileHeader, HEADER_BYTES_MIN, Prefix, SEALED_CHUNK_BYTES};
use envelope::suite1::{SealingKey, open};
use envelope::{EncryptionContext, Kind, Sealed, SecretBytes, SecretKey};
use futures_util::FutureExt;
use hsm_api::frame::{FRAME_BYTES_MAX, FRAME_ITEMS_MAX, FrameWriter, decode_replies, decode_requests, next_frame};
use hsm_api::{HsmError, KeyToken, Reply};
use identity::policy::{Capabilities, Values};
use identity::{Acl, Asked, Capability, Facts, Policy, PolicyName, Verdict, decide, decide_on};
use std::sync::Arc;
use storage::path::{PATH_BYTES_MAX, SEGMENTS_MAX};
use storage::{EntryPath, Memory};

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

/// Policies, and behind a zero byte a path to decide on: what is read goes back to both languages and means the same there.
pub fn acl_policy(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0).map(std::str::from_utf8);
    let Some(Ok(text)) = parts.next() else { return };
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(malformed) => return assert!(!malformed.to_string().is_empty()),
    };
    for again in [policy_in_hcl(&policy), policy_in_json(&policy)] {
        // escapes make a text longer than it was
        if again.len() <= identity::policy::POLICY_BYTES_MAX {
            assert_eq!(Policy::parse(&again).as_ref(), Ok(&policy), "{again}");
        }
    }
    let name = PolicyName::parse("fuzzed").expect("it is a name");
    let acl = Acl::compile([(&name, &policy)]);
    if let Some(Ok(path)) = parts.next() {
        for capability in Capability::ALL {
            let decided = decide(&acl, path, capability);
            assert_ne!(decided.verdict, Verdict::Allow { rule: "root" });
            assert!(policy.rules().iter().any(|(_, said)| said.ack() == decided.ack) || decided.ack == Ack::Durable);
            // who shows what is asked with is allowed no more than who asks whether anything is
            let shown = decide_on(&acl, path, capability, Facts::Asked(&Asked::default())).verdict;
            let any = decide_on(&acl, path, capability, Facts::Any).verdict;
            assert!(shown == any || matches!(shown, Verdict::Deny { .. }));
        }
    }
    for (pattern, _) in policy.rules().iter().take(64).filter(|(pattern, _)| pattern.is_exact()) {
        written_out(&policy, &acl, pattern.as_str());
    }
}

/// On a path that is written out, what is written there decides, and nothing else.
fn written_out(policy: &Policy, acl: &Acl, path: &str) {
    let said = || policy.rules().iter().filter(|(pattern, _)| pattern.as_str() == path).map(|(_, said)| said);
    // without a value a template gives nothing, and one that denies voids its policy
    let is_void = policy.templates().iter().any(|(_, said)| said.denies());
    for capability in Capability::ALL.into_iter().filter(|capability| *capability != Capability::List) {
        let expected = if said().any(|said| said.denies()) {
            Verdict::Deny { rule: "fuzzed" }
        } else if !is_void && said().any(|said| said.gives(capability)) {
            match said().any(|said| said.limits().is_some()) {
                // nobody shows what is asked with
                true => Verdict::Deny { rule: "fuzzed" },
                false => Verdict::Allow { rule: "fuzzed" },
            }
        } else {
            Verdict::Nothing
        };
        let decided = decide(acl, path, capability);
        assert_eq!(decided.verdict, expected, "{path} {capability:?}");
        assert!(said().all(|said| said.ack() <= decided.ack), "{path} {capability:?}: no rule is made less");
    }
}

fn words(said: &Capabilities) -> String {
    let given = Capability::ALL.into_iter().filter(|capability| said.gives(*capability)).map(Capability::as_str);
    let words: Vec<_> = given.chain(said.denies().then_some("deny")).map(|word| format!("\"{word}\"")).collect();
    words.join(", ")
}

/// All keys of a block with their values, in JSON but for the mark between.
fn block(said: &Capabilities, mark: &str) -> Vec<(&'static str, String)> {
    let list = |values: &[Box<str>]| values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ");
    let map = |values: &Values| {
        let pairs = values.iter().map(|(name, values)| format!("{}{mark}[{}]", quoted(name), list(values)));
        format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
    };
    let mut keys = vec![("capabilities", format!("[{}]", words(said)))];
    if said.ack() != Ack::Durable {
        keys.push(("audit_ack", quoted(said.ack().as_str())));
    }
    let Some(limits) = said.limits() else { return keys };
    keys.extend(limits.allowed.as_ref().map(|values| ("allowed_parameters", map(values))));
    keys.extend(limits.denied.as_ref().map(|values| ("denied_parameters", map(values))));
    keys.push(("required_parameters", format!("[{}]", list(&limits.required))));
    keys.extend(limits.min_wrapping.map(|min| ("min_wrapping_ttl", min.as_secs().to_string())));
    keys.extend(limits.max_wrapping.map(|max| ("max_wrapping_ttl", max.as_secs().to_string())));
    keys
}

fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A leading slash would be taken for the API's.
fn stanzas(policy: &Policy) -> impl Iterator<Item = (String, &Capabilities)> {
    let rules = policy.rules().iter().map(|(pattern, said)| (pattern.as_str(), said));
    let templates = policy.templates().iter().map(|(template, said)| (template.as_str(), said));
    rules.chain(templates).map(|(path, said)| (quoted(&format!("/{path}")), said))
}

fn policy_in_hcl(policy: &Policy) -> String {
    let rule = |(path, said): (String, &Capabilities)| {
        let keys: Vec<_> = block(said, " = ").iter().map(|(key, value)| format!("{key} = {value}")).collect();
        format!("path {path} {{ {} }}\n", keys.join(" "))
    };
    stanzas(policy).map(rule).collect()
}

fn policy_in_json(policy: &Policy) -> String {
    let rule = |(path, said): (String, &Capabilities)| {
        let keys: Vec<_> = block(said, ": ").iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
        format!("{path}: {{{}}}", keys.join(", "))
    };
    let rules: Vec<_> = stanzas(policy).map(rule).collect();
    format!("{{\"path\": {{{}}}}}", rules.join(", "))
}

/// Paths: what parses is bounded, goes back to its text, and orders, joins and prefixes as its segments say.
pub fn entry_path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(2, '\n');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(path) = EntryPath::parse(first) else { return };
    assert_eq!(path.as_str(), first);
    assert!(first.len() <= PATH_BYTES_MAX);
    let segments: Vec<&str> = path.segments().collect();
    assert!((1..=SEGMENTS_MAX).contains(&segments.len()) && segments.join("/") == first);
    assert!(segments.iter().all(|segment| !matches!(*segment, "" | "." | "..")));
    assert!(first.bytes().all(|byte| byte.is_ascii_graphic()));
    if let Ok(joined) = path.join(second) {
        assert!(joined.starts_with(&path) && joined > path, "nothing climbs out of its prefix");
        assert_eq!(joined.as_str(), format!("{first}/{second}"));
    }
    let Ok(other) = EntryPath::parse(second) else { return };
    let others: Vec<&str> = other.segments().collect();
    assert_eq!(path.starts_with(&other), segments.starts_with(&others));
    assert_eq!(path.cmp(&other), first.as_bytes().cmp(second.as_bytes()));
    assert_eq!(path == other, first == second);
}

/// The store in memory and the model do the same.
pub fn storage_model(data: &[u8]) {
    let clock = ManualClock::default();
    let store = Memory::with_clock(Arc::new(clock.clone()));
    let compared = storage::model::compare(&store, &clock, &storage::model::operations(data)).now_or_never();
    assert!(compared.is_some(), "memory makes nobody wait");
}

/// Entries of the audit log: as they come, with a checksum that is right, and as drafts; and sealed period keys.
pub fn audit_entry(data: &[u8]) {
    entry(data);
    // so that the fuzzer need not find a checksum
    if let Ok(length) = u16::try_from(data.len())
        && let Ok(entry_of_data) = finish(&[&length.to_be_bytes()[..], data].concat(), None)
    {
        assert!(is_entry(&entry_of_data));
        entry(&entry_of_data);
    }
    if let Ok(entry_of_draft) = finish(data, None) {
        assert!(is_entry(&entry_of_draft));
        entry(&entry_of_draft);
    }
    if let Ok(key) = SealedPeriodKey::parse(data) {
        assert_eq!(key.to_bytes(), data);
    }
}

fn entry(bytes: &[u8]) {
    let Ok(mut entry) = Entry::decode(bytes) else { return };
    assert!(is_entry(bytes) && entry.encode() == bytes);
    let line = entry.to_json(None);
    assert!(line.ends_with('\n') && line.bytes().filter(|byte| *byte < b' ').count() == 1, "{line:?}");
    if entry.sealed().is_none() {
        let draft = entry.record().encode();
        // what fills an entry leaves no room that a draft needs
        assert!(draft.is_empty() || finish(&draft, None).as_deref() == Ok(bytes));
        assert_eq!(line.as_bytes(), entry.record().json(), "both are the same line");
        assert_eq!(finish(line.as_bytes(), None).as_deref().ok(), (!draft.is_empty()).then_some(bytes));
    }
    assert_eq!(entry.open(&PeriodKeys::default()).is_ok(), entry.sealed().is_none());
}
