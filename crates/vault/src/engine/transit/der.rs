//! ECDSA's two forms on P-256: `SEQUENCE { r INTEGER, s INTEGER }` (RFC 3279 §2.2.3), and both numbers of 32 bytes, one after
//! the other (RFC 7518 §3.4).

/// `None`: not the one DER form of two positive numbers that fit.
pub(super) fn to_fixed(der: &[u8]) -> Option<[u8; 2 * NUMBER]> {
    let (rest, end) = element(der, SEQUENCE)?;
    let (r, rest) = element(rest, INTEGER)?;
    let (s, more) = element(rest, INTEGER)?;
    if !end.is_empty() || !more.is_empty() {
        return None;
    }
    let mut fixed = [0; 2 * NUMBER];
    let (first, second) = fixed.split_at_mut(NUMBER);
    place(r, first)?;
    place(s, second)?;
    Some(fixed)
}

pub(super) fn of_fixed(fixed: &[u8]) -> Option<Vec<u8>> {
    if fixed.len() != 2 * NUMBER {
        return None;
    }
    let (r, s) = fixed.split_at(NUMBER);
    let numbers = [integer(r), integer(s)].concat();
    // two numbers of at most 33 bytes: every length takes one byte
    Some([&[SEQUENCE, u8::try_from(numbers.len()).ok()?][..], &numbers].concat())
}

/// The content of an element of short length, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, len, rest @ ..] = bytes else { return None };
    if *found != tag || *len >= 0x80 {
        return None;
    }
    rest.split_at_checked(usize::from(*len))
}

fn place(number: &[u8], into: &mut [u8]) -> Option<()> {
    let number = match number {
        [] | [0x80..=0xff, ..] => return None,
        [0, rest @ ..] if rest.first().is_none_or(|next| *next >= 0x80) => rest,
        [0, ..] => return None,
        number => number,
    };
    let at = into.len().checked_sub(number.len())?;
    into.get_mut(at..)?.copy_from_slice(number);
    Some(())
}

fn integer(number: &[u8]) -> Vec<u8> {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len() - 1);
    let digits = number.get(first..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_some_and(|byte| *byte >= 0x80) { &[0] } else { &[] };
    let len = u8::try_from(sign.len() + digits.len()).unwrap_or(u8::MAX);
    [&[INTEGER, len][..], sign, digits].concat()
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const NUMBER: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_have_one_form_each_way() {
        for (r, s) in [(1u8, 1u8), (0x7f, 0x80), (0xff, 0)] {
            for at in [0, 16, 31] {
                let mut fixed = [0; 64];
                (fixed[at], fixed[63]) = (r, s);
                let der = of_fixed(&fixed).unwrap();
                assert_eq!(to_fixed(&der), Some(fixed), "{der:02x?}");
            }
        }
        for malformed in [
            &b""[..],
            &[0x30, 0],
            &[0x30, 6, 2, 1, 1, 2, 1],
            &[0x30, 6, 2, 1, 1, 2, 1, 1, 0],
            &[0x30, 7, 2, 1, 1, 2, 1, 1, 0],
            &[0x30, 7, 2, 2, 0, 1, 2, 1, 1],
            &[0x30, 6, 2, 1, 0x80, 2, 1, 1],
            &[0x30, 5, 2, 0, 2, 1, 1],
            &[0x30, 0x81, 6, 2, 1, 1, 2, 1, 1],
        ] {
            assert_eq!(to_fixed(malformed), None, "{malformed:02x?}");
        }
        assert_eq!(of_fixed(&[1; 63]), None);
    }
}
