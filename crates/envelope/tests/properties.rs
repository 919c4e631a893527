//! Properties: parsers are total, what they accept goes back to the same bytes, what is sealed opens only as it was.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use envelope::sealed::{Malformed, parse_barrier, parse_blob, parse_system, parse_token};
use envelope::stream::{FileHeader, Prefix};
use envelope::suite1::{SealingKey, open, seal};
use envelope::{EncryptionContext, Header, Kind, Sealed, SecretKey, Suite};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

type Parse = for<'a> fn(&'a [u8]) -> Result<Sealed<'a>, Malformed>;

const PARSERS: [Parse; 4] = [parse_blob, parse_token, parse_barrier, parse_system];

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::CiphertextBlob), Just(Kind::KeyToken), Just(Kind::BarrierValue)]
}

fn suites() -> impl Strategy<Value = Suite> {
    prop_oneof![Just(Suite::KdfCommitGcm), Just(Suite::TokenGcm), Just(Suite::ResidentReference)]
}

prop_compose! {
    fn headers()(
        kind in kinds(), suite in suites(), key_id: [u8; 16], key_version: u32, domain_id: [u8; 16], generation: u32,
    ) -> Header {
        let generation = if kind == Kind::CiphertextBlob { 0 } else { generation };
        Header { kind, suite, key_id, key_version, domain_id, generation }
    }
}

/// A header that is right and a body that often is.
fn almost_sealed() -> impl Strategy<Value = Vec<u8>> {
    let bodies = prop_oneof![
        vec(any::<u8>(), 0..200),
        (prop_oneof![Just(12u8), Just(16), any::<u8>()], vec(any::<u8>(), 0..120)).prop_map(|(len, rest)| [
            &[len][..],
            &rest
        ]
        .concat()),
        (vec(any::<u8>(), 48), vec(any::<u8>(), 0..60), vec(any::<u8>(), 32)).prop_map(|(head, binding, mac)| {
            let len = u16::try_from(binding.len()).unwrap().to_be_bytes();
            [&head[..], &len, &binding, &mac].concat()
        }),
    ];
    (headers(), bodies).prop_map(|(header, body)| [&header.to_bytes()[..], &body].concat())
}

fn contexts() -> impl Strategy<Value = EncryptionContext> {
    btree_map(".{1,12}", ".{0,12}", 0..8).prop_map(|pairs| EncryptionContext::parse(pairs).unwrap())
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_a_parser(bytes in vec(any::<u8>(), 0..400)) {
        for parse in PARSERS {
            prop_assert!(parse(&bytes).is_err() || bytes.starts_with(b"SR"));
        }
        prop_assert!(FileHeader::parse(&bytes).is_err() || bytes.is_empty() || bytes[0] == b'S');
        if let Ok(context) = EncryptionContext::from_canonical(&bytes) {
            prop_assert_eq!(context.canonical(), bytes);
        }
    }

    #[test]
    fn what_parses_goes_back_to_the_same_bytes(bytes in almost_sealed()) {
        for parse in PARSERS {
            if let Ok(sealed) = parse(&bytes) {
                prop_assert_eq!(sealed.to_bytes().unwrap(), &bytes[..]);
            }
        }
    }

    #[test]
    fn a_header_goes_through_its_bytes(header in headers()) {
        prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    }

    #[test]
    fn a_context_goes_through_its_canonical_form(context in contexts(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let canonical = context.canonical();
        prop_assert_eq!(EncryptionContext::from_canonical(&canonical), Ok(context.clone()));
        let mut altered = canonical.clone();
        altered[at.index(canonical.len())] ^= flip;
        prop_assert_ne!(EncryptionContext::from_canonical(&altered), Ok(context));
    }

    #[test]
    fn a_blob_opens_under_its_key_and_context_alone(
        header in headers(), key: [u8; 32], other_key: [u8; 32], n: [u8; 16], iv: [u8; 12],
        context in contexts(), other_context in contexts(), plaintext in vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        let header = Header { suite: Suite::KdfCommitGcm, ..header };
        let parse = match header.kind {
            Kind::CiphertextBlob => parse_blob,
            Kind::KeyToken => parse_token,
            Kind::BarrierValue => parse_barrier,
        };
        let sealing_key = |bytes: &[u8; 32]| SealingKey::new(&SecretKey::from_slice(bytes).unwrap());
        let (digest, key_of) = (context.digest(), sealing_key(&key));
        let bytes = seal(&key_of, &header, &n, &iv, &digest, &plaintext);
        let sealed = parse(&bytes).unwrap();
        let opened = open(&key_of, &sealed, &digest).unwrap();
        prop_assert_eq!(opened.expose(), &plaintext[..]);
        prop_assert_eq!(open(&sealing_key(&other_key), &sealed, &digest).is_ok(), other_key == key);
        prop_assert_eq!(open(&key_of, &sealed, &other_context.digest()).is_ok(), other_context == context);
        let mut altered = bytes.clone();
        altered[at.index(bytes.len())] ^= flip;
        let opened = parse(&altered).ok().and_then(|sealed| open(&key_of, &sealed, &digest).ok());
        prop_assert!(opened.is_none());
    }

    #[test]
    fn a_file_header_goes_through_its_bytes(
        salt: [u8; 16], rest in vec(any::<u8>(), 76..300), tail in vec(any::<u8>(), 0..20),
    ) {
        let blob_header = Header {
            kind: Kind::CiphertextBlob,
            suite: Suite::KdfCommitGcm,
            key_id: salt,
            key_version: 1,
            domain_id: salt,
            generation: 0,
        };
        let header = FileHeader::new([&blob_header.to_bytes()[..], &rest].concat(), salt).unwrap();
        let bytes = header.to_bytes();
        let used = bytes.len();
        prop_assert_eq!(FileHeader::parse(&[&bytes[..], &tail].concat()), Ok(Prefix::Whole(header, used)));
    }
}

#[test]
fn the_generator_of_almost_sealed_values_reaches_every_suite() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let (mut runner, mut seen) = (TestRunner::deterministic(), [0; 3]);
    for _ in 0..2000 {
        let bytes = almost_sealed().new_tree(&mut runner).unwrap().current();
        for parsed in PARSERS.iter().filter_map(|parse| parse(&bytes).ok()) {
            seen[parsed.header.suite as usize - 1] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 20), "{seen:?}");
}
