//! Client certificates and SVIDs, as auth methods read them before anything of them is believed.

use envelope::Timestamp;
use std::time::Duration;
use vault::auth::spiffe::{Bundle, Pattern, SpiffeId};
use vault::auth::x509::leaf::Leaf;
use vault::auth::x509::ocsp::{Link, Terms};
use vault::auth::x509::{By, check, list};

/// A certificate, or a list of what is revoked: read without a panic, and believed by nobody.
pub fn x509(data: &[u8]) {
    if let Ok(leaf) = Leaf::read(data) {
        assert!(!leaf.serial.is_empty(), "every certificate has a number");
    }
    let chain: Vec<Box<[u8]>> = data.chunks(data.len().div_ceil(3).max(1)).map(Into::into).collect();
    let (whole, lists) = ([Box::from(data)], list::read("crl", data).map(|list| list.der));
    let lists: Vec<_> = lists.into_iter().map(|der| list::Known::read(der).expect("it was read before")).collect();
    for (chain, authorities) in
        [(&whole[..], vec![data.to_vec()]), (&chain[..], vec![data.to_vec()]), (&chain[..], vec![])]
    {
        let by = By { authorities: &authorities, lists: &lists, lists_required: false };
        let now = Timestamp::from_unix_millis(1_700_000_000_000);
        let believed = check(chain, &by, now).is_ok();
        // what has signed itself is believed by who believes it
        assert!(!believed || !authorities.is_empty(), "nobody has certified this");
    }
}

/// What a responder answers, about a certificate that it was never asked about: read without a panic, and believed never.
pub fn ocsp(data: &[u8]) {
    let asked = Link {
        own: include_bytes!("../corpus/x509/leaf").to_vec(),
        issuer: include_bytes!("../corpus/x509/authority").to_vec(),
    };
    let question = asked.question([7; 16]).expect("both can be read");
    let (now, named) = (Timestamp::from_unix_millis(1_795_885_000_000), [data.to_vec()]);
    for responders in [&[][..], &named] {
        let terms = Terms { responders, age_max: Duration::ZERO };
        assert!(asked.judge(&question, data, terms, now).is_err(), "nobody has signed this");
    }
    // a certificate that names whom to ask
    let _ = Link { own: data.to_vec(), ..asked }.servers();
}

/// SPIFFE IDs, patterns and bundles: what parses is spelled as it was.
pub fn spiffe(data: &[u8]) {
    let _ = Bundle::parse(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (first, second) = text.split_once('\n').unwrap_or((text, "/*"));
    let Some(id) = SpiffeId::parse(first) else { return };
    assert_eq!(id.as_str(), first);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), first);
    let itself = Pattern::parse(first, id.trust_domain());
    assert_eq!(itself.is_some_and(|itself| itself.matches(&id)), !id.path().is_empty());
    if let Some(pattern) = Pattern::parse(second, id.trust_domain()) {
        let segments = |path: &str| path.matches('/').count();
        let trimmed = second.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).map_or(second, |(_, p)| p);
        let wanted = segments(trimmed.strip_prefix('/').unwrap_or(trimmed)) + 1;
        assert!(!pattern.matches(&id) || segments(id.path()) == wanted, "segment by segment");
    }
}
