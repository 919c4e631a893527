//! The few DER forms that stand between a token and the rest of the world: SubjectPublicKeyInfo (RFC 5280 §4.1),
//! ECDSA signatures (RFC 3279 §2.2.3), DigestInfo (RFC 8017 §9.2).

/// OBJECT IDENTIFIER prime256v1, as CKA_EC_PARAMS.
pub(crate) const P256_OID: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// Ed25519 as CKA_EC_PARAMS: the OID of RFC 8410, and the PrintableString of PKCS#11 3.0.
pub(crate) const ED25519_PARAMS: [&[u8]; 2] = [&[0x06, 0x03, 0x2b, 0x65, 0x70], b"\x13\x0cedwards25519"];

/// Of a P-256 key from CKA_EC_POINT: an OCTET STRING around the point, or the bare point.
pub(crate) fn p256_spki(point: &[u8]) -> Option<Vec<u8>> {
    let point = unwrap_point(point, 65).filter(|point| point[0] == 4)?;
    let algorithm = [&b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"[..], P256_OID].concat();
    Some(spki(&algorithm, point))
}

pub(crate) fn ed25519_spki(point: &[u8]) -> Option<Vec<u8>> {
    Some(spki(&[0x06, 0x03, 0x2b, 0x65, 0x70], unwrap_point(point, 32)?))
}

pub(crate) fn rsa_spki(modulus: &[u8], exponent: &[u8], bits: usize) -> Option<Vec<u8>> {
    let modulus = &modulus[modulus.iter().position(|byte| *byte != 0)?..];
    if modulus.len() * 8 != bits || modulus[0] & 0x80 == 0 || exponent.iter().all(|byte| *byte == 0) {
        return None;
    }
    let key = tlv(0x30, &[integer(modulus), integer(exponent)].concat());
    Some(spki(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00", &key))
}

/// The last 32 bytes of an Ed25519 SubjectPublicKeyInfo.
pub(crate) fn ed25519_of(spki: &[u8]) -> Option<[u8; 32]> {
    if spki.len() == 44 { spki.last_chunk().copied() } else { None }
}

/// `r ‖ s`, as tokens give it, to DER.
pub(crate) fn ecdsa(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() != 64 {
        return None;
    }
    let (r, s) = raw.split_at(32);
    Some(tlv(0x30, &[integer(r), integer(s)].concat()))
}

/// DigestInfo of a SHA-2 digest.
pub(crate) fn digest_info(digest: &[u8]) -> Option<Vec<u8>> {
    let hash = match digest.len() {
        32 => 1,
        48 => 2,
        64 => 3,
        _ => return None,
    };
    let algorithm = [&b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02"[..], &[hash, 0x05, 0x00]].concat();
    Some(tlv(0x30, &[tlv(0x30, &algorithm), tlv(0x04, digest)].concat()))
}

fn unwrap_point(point: &[u8], len: usize) -> Option<&[u8]> {
    let inner = match point {
        [0x04, inner_len, inner @ ..] if inner.len() == len && usize::from(*inner_len) == len => inner,
        bare => bare,
    };
    (inner.len() == len).then_some(inner)
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = [&[0], key].concat();
    tlv(0x30, &[tlv(0x30, algorithm), tlv(0x03, &bits)].concat())
}

fn integer(magnitude: &[u8]) -> Vec<u8> {
    let start = magnitude.iter().position(|byte| *byte != 0).unwrap_or(magnitude.len().saturating_sub(1));
    let magnitude = &magnitude[start..];
    let sign: &[u8] = if magnitude.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    tlv(0x02, &[sign, magnitude].concat())
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let len = value.len().to_be_bytes();
    let significant = &len[len.iter().position(|byte| *byte != 0).unwrap_or(len.len() - 1)..];
    let mut out = vec![tag];
    if let [short] = significant
        && *short < 0x80
    {
        out.push(*short);
    } else {
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or(0x7f));
        out.extend_from_slice(significant);
    }
    out.extend_from_slice(value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_two_halves_become_two_integers() {
        let mut raw = [0; 64];
        (raw[31], raw[32]) = (5, 0x80);
        let der = ecdsa(&raw).unwrap();
        assert_eq!(der[..6], [0x30, 38, 0x02, 1, 5, 0x02]);
        assert_eq!(der[6..9], [33, 0, 0x80]);
        assert_eq!(ecdsa(&[0; 64]).unwrap(), [0x30, 6, 2, 1, 0, 2, 1, 0]);
        assert_eq!(ecdsa(&[0; 63]), None);
    }

    #[test]
    fn points_come_bare_or_wrapped_and_in_no_other_length() {
        let bare = [&[4][..], &[7; 64]].concat();
        let wrapped = [&[4, 65][..], &bare].concat();
        assert_eq!(p256_spki(&bare), p256_spki(&wrapped));
        assert_eq!(p256_spki(&bare).unwrap().len(), 91);
        assert_eq!(p256_spki(&bare[1..]), None);
        assert_eq!(ed25519_spki(&[&[4, 32][..], &[9; 32]].concat()).as_deref().and_then(ed25519_of), Some([9; 32]));
        assert_eq!(ed25519_spki(&[9; 33]), None);
        for (modulus, good) in [
            (vec![0xff; 256], true),
            ([&[0][..], &[0xff; 256]].concat(), true),
            (vec![0x7f; 256], false),
            (vec![0xff; 255], false),
            (vec![], false),
        ] {
            assert_eq!(rsa_spki(&modulus, &[1, 0, 1], 2048).is_some(), good, "{}", modulus.len());
        }
    }

    #[test]
    fn a_digest_info_names_its_hash() {
        // RFC 8017 §9.2, note 1
        let sha256 = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
        assert_eq!(digest_info(&[1; 32]).unwrap(), [&sha256[..], &[1; 32]].concat());
        let sha512 = b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40";
        assert_eq!(digest_info(&[1; 64]).unwrap(), [&sha512[..], &[1; 64]].concat());
        assert_eq!(digest_info(&[1; 20]), None);
    }
}
