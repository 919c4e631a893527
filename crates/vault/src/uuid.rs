//! 16 bytes in the five groups of RFC 9562 §4, without the marks of a version: ids as clients know them.

/// It is written in place: of a secret nothing is left beside the text.
pub(crate) fn uuid(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in id.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let digits = [byte >> 4, byte & 0xf];
        text.extend(digits.into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bytes_stand_in_five_groups() {
        let id = std::array::from_fn(|at| u8::try_from(at * 17).unwrap());
        assert_eq!(uuid(&id), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
