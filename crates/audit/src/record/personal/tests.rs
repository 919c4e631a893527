use super::*;
use std::collections::BTreeSet;
use std::sync::Arc;

fn period() -> Period {
    Period { year: 2026, month: 11 }
}

fn fixed(key: u8) -> PeriodKey {
    PeriodKey::new([0x1d; 16], period(), SecretKey::init_with(|bytes| bytes.fill(key)))
}

#[test]
fn an_auditors_public_key_is_that_of_rfc_9180() {
    // appendix A.1.1: skRm and pkRm
    let private = "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8";
    let secret = AuditorSecret::from_key(SecretKey::from_slice(&hex::decode(private).unwrap()).unwrap());
    let public = "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d";
    assert_eq!(hex::encode(secret.public().unwrap().as_bytes()), public);
}

#[test]
fn a_period_is_a_calendar_month() {
    for (secs, expected) in [
        (0, "1970-01"),
        (2_678_399, "1970-01"),
        (2_678_400, "1970-02"),
        (951_782_400, "2000-02"),
        (951_868_800, "2000-03"),
        (1_709_164_800, "2024-02"),
        (1_709_251_200, "2024-03"),
        (1_764_547_200, "2025-12"),
        (1_767_225_599, "2025-12"),
        (1_767_225_600, "2026-01"),
        (4_107_542_399, "2100-02"),
        (4_107_542_400, "2100-03"),
    ] {
        assert_eq!(Period::of(Timestamp::from_unix_millis(secs * 1000)).to_string(), expected, "{secs}");
    }
    assert_eq!(Period::of(Timestamp::from_unix_millis(u64::MAX)).to_string(), "65535-12");
}

#[test]
fn two_seals_never_share_a_nonce() {
    let key = Arc::new(fixed(1));
    let seals = (0..4).map(|_| {
        let key = Arc::clone(&key);
        std::thread::spawn(move || (0..500).map(|_| key.seal(&[0; 32], b"x").unwrap().counter).collect::<Vec<_>>())
    });
    let seals: Vec<_> = seals.collect();
    let told: Vec<u64> = seals.into_iter().flat_map(|seal| seal.join().unwrap()).collect();
    let nonces: BTreeSet<[u8; 12]> = told.iter().map(|counter| nonce(*counter)).collect();
    assert_eq!((told.len(), nonces.len()), (2000, 2000));
    // of two processes: other keys
    let (one, other) = (PeriodKey::generate(period()).unwrap(), PeriodKey::generate(period()).unwrap());
    assert!(one.id() != other.id() && one.key.expose() != other.key.expose());

    key.counter.store(SEALS_MAX - 1, Ordering::Relaxed);
    assert!(key.seal(&[0; 32], b"x").is_ok());
    for _ in 0..3 {
        assert_eq!(key.seal(&[0; 32], b"x"), Err(Malformed::KeyUsedUp));
    }
}

#[test]
fn what_was_sealed_opens_under_its_key_its_digest_and_its_counter_alone() {
    let sealed = fixed(1).seal(&[7; 32], b"alice").unwrap();
    let reading = |key: u8| {
        let auditor = AuditorSecret::generate().unwrap();
        auditor.open(&fixed(key).sealed_to(&auditor.public().unwrap()).unwrap()).unwrap()
    };
    let key = reading(1);
    assert_eq!(key.open(&[7; 32], &sealed).unwrap().expose(), b"alice");
    assert!(key.open(&[8; 32], &sealed).is_err());
    assert!(reading(2).open(&[7; 32], &sealed).is_err());
    assert!(key.open(&[7; 32], &Sealed { counter: 1, ..sealed.clone() }).is_err());
    for bit in 0..sealed.ciphertext.len() * 8 {
        let mut altered = sealed.clone();
        altered.ciphertext[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open(&[7; 32], &altered).is_err(), "bit {bit}");
    }
}

#[test]
fn a_sealed_key_comes_back_to_its_auditor_and_no_bit_of_it_may_change() {
    let auditor = AuditorSecret::generate().unwrap();
    let sealed = fixed(0x41).sealed_to(&auditor.public().unwrap()).unwrap();
    let bytes = sealed.to_bytes();
    assert_eq!(bytes[..24], *b"SRAK\x01\x07\xea\x0b\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d\x1d");
    assert!(!bytes.windows(8).any(|part| part == [0x41; 8]));
    assert_eq!(SealedPeriodKey::parse(&bytes).as_ref(), Ok(&sealed));
    let key = auditor.open(&sealed).unwrap();
    assert_eq!(
        (key.id(), key.period(), sealed.key_id(), sealed.period()),
        (&[0x1d; 16], period(), &[0x1d; 16], period())
    );
    for bit in 0..bytes.len() * 8 {
        let mut altered = bytes;
        altered[bit / 8] ^= 1 << (bit % 8);
        let opened = SealedPeriodKey::parse(&altered).and_then(|sealed| auditor.open(&sealed));
        // RFC 7748 §5: the top bit of a point is not looked at by the curve, but HPKE binds it
        assert_eq!(opened.err(), Some(Rejected), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert_eq!(SealedPeriodKey::parse(&bytes[..len]), Err(Rejected));
    }
    assert_eq!(SealedPeriodKey::parse(&[&bytes[..], &[0]].concat()), Err(Rejected));
    let again = fixed(0x41).sealed_to(&auditor.public().unwrap()).unwrap();
    assert!(again.encapsulated != sealed.encapsulated && again.ciphertext != sealed.ciphertext);
}

#[test]
fn a_public_key_that_gives_no_secret_is_refused() {
    // RFC 7748 §6.1: points of small order
    let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    for bytes in [[0; 32], hex::decode(order_8).unwrap().try_into().unwrap()] {
        assert_eq!(AuditorPublic::from_bytes(bytes), Err(Rejected));
    }
    let public = AuditorSecret::generate().unwrap().public().unwrap();
    assert_eq!(AuditorPublic::from_bytes(*public.as_bytes()), Ok(public));
}

#[test]
fn keys_print_as_nothing() {
    let (key, auditor) = (fixed(0x41), AuditorSecret::from_key(SecretKey::init_with(|bytes| bytes.fill(0x41))));
    let reading = auditor.open(&key.sealed_to(&auditor.public().unwrap()).unwrap()).unwrap();
    let told = format!("{key:?} {auditor:?} {reading:?}");
    assert_eq!(told, "PeriodKey(2026-11) AuditorSecret(SecretKey) ReadingKey(2026-11)");
}
