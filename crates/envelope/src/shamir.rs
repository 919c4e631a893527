//! Shamir's secret sharing over GF(2^8): split a secret for custodians, combine enough shares again.
//!
//! One polynomial per byte of the secret, in AES's field (FIPS 197 §4.2). A share is the polynomials' values in the
//! secret's order, then the point x as the last byte: Vault's format.
//!
//! Always: points are distinct and not zero; arithmetic on secrets takes the same time for all values.
//! Never: a check that the shares were enough. Too few shares, or shares of another secret, give other bytes: whoever
//! stores a secret this way authenticates it beside.

use crate::secret::SecretBytes;
use zeroize::Zeroizing;

/// Longest secret that is split, bytes.
pub const SECRET_BYTES_MAX: usize = 4096;

/// Why nothing was split. `E` is the failure of the caller's source of randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError<E> {
    #[error("the secret is empty or longer than {SECRET_BYTES_MAX} bytes")]
    SecretLength,
    #[error("the threshold is not between 1 and the number of shares")]
    Threshold,
    #[error("the source of randomness failed")]
    Random(#[source] E),
}

/// Why the shares cannot be combined. Says nothing of their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    #[error("there are no shares")]
    NoShares,
    #[error("a share is too short, too long, or not as long as the others")]
    ShareLength,
    #[error("a share's number is zero")]
    ShareNumber,
    #[error("a share is there twice")]
    DuplicateShare,
}

/// Splits `secret` so that any `threshold` of the `shares` give it back and fewer tell nothing of it.
///
/// `fill` is asked once, for fresh random bytes. With a threshold of 1 every share holds the secret itself.
pub fn split<E>(
    secret: &[u8],
    threshold: u8,
    shares: u8,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<Vec<SecretBytes>, SplitError<E>> {
    if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
        return Err(SplitError::SecretLength);
    }
    if threshold == 0 || threshold > shares {
        return Err(SplitError::Threshold);
    }
    let degree = usize::from(threshold) - 1;
    let mut coefficients = Zeroizing::new(vec![0; secret.len() * degree]);
    fill(&mut coefficients).map_err(SplitError::Random)?;
    let share = |x: u8| {
        SecretBytes::init_with(secret.len() + 1, |share| {
            for (i, (y, constant)) in share.iter_mut().zip(secret).enumerate() {
                *y = evaluate(*constant, &coefficients[i * degree..(i + 1) * degree], x);
            }
            share[secret.len()] = x;
        })
    };
    Ok((1..=shares).map(share).collect())
}

/// Combines shares into what was split, if they were enough and belong together; else into other bytes.
pub fn combine(shares: &[SecretBytes]) -> Result<SecretBytes, CombineError> {
    let (first, _) = shares.split_first().ok_or(CombineError::NoShares)?;
    let len = first.len();
    if !(2..=SECRET_BYTES_MAX + 1).contains(&len) || shares.iter().any(|share| share.len() != len) {
        return Err(CombineError::ShareLength);
    }
    let mut points = Vec::with_capacity(shares.len());
    for share in shares {
        let x = share.expose()[len - 1];
        if x == 0 {
            return Err(CombineError::ShareNumber);
        }
        if points.contains(&x) {
            return Err(CombineError::DuplicateShare);
        }
        points.push(x);
    }
    Ok(SecretBytes::init_with(len - 1, |secret| {
        for (share, x) in shares.iter().zip(&points) {
            let weight = weight_at_zero(*x, &points);
            for (byte, y) in secret.iter_mut().zip(share.expose()) {
                *byte ^= multiply(*y, weight);
            }
        }
    }))
}

/// The polynomial's value at `x`, by Horner's rule; `higher` holds the coefficients from degree one up.
fn evaluate(constant: u8, higher: &[u8], x: u8) -> u8 {
    higher.iter().rev().fold(0, |value, coefficient| multiply(value ^ coefficient, x)) ^ constant
}

/// Lagrange's weight of the point `x` for the value at zero: the product of `other / (other - x)`.
fn weight_at_zero(x: u8, points: &[u8]) -> u8 {
    let others = points.iter().filter(|other| **other != x);
    others.fold(1, |weight, other| multiply(weight, multiply(*other, invert(other ^ x))))
}

/// Product modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197 §4.2), without branches or tables that secrets would select.
fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & 0u8.wrapping_sub((b >> bit) & 1);
        a = (a << 1) ^ (0x1b & 0u8.wrapping_sub(a >> 7));
    }
    product
}

/// `a` to the 254th power: its inverse, as a^255 = 1. Zero stays zero.
fn invert(a: u8) -> u8 {
    // 254 = 2 + 4 + … + 128
    let (mut square, mut product) = (a, 1);
    for _ in 0..7 {
        square = multiply(square, square);
        product = multiply(product, square);
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn filled(byte: impl Fn(usize) -> u8) -> impl FnOnce(&mut [u8]) -> Result<(), Infallible> {
        move |out| {
            out.iter_mut().enumerate().for_each(|(i, out)| *out = byte(i));
            Ok(())
        }
    }

    fn shares(raw: &[&[u8]]) -> Vec<SecretBytes> {
        raw.iter().map(|share| SecretBytes::copy_from(share)).collect()
    }

    #[test]
    fn the_field_is_the_one_of_aes() {
        // FIPS 197 §4.2, §4.2.1 and §5.1.1
        for (a, b, product) in [(0x57, 0x83, 0xc1), (0x57, 0x13, 0xfe), (0x53, 0xca, 0x01), (0, 0xff, 0)] {
            assert_eq!((multiply(a, b), multiply(b, a)), (product, product), "{a:#x} {b:#x}");
        }
        assert_eq!(invert(0), 0);
        for a in 1..=255 {
            assert_eq!(multiply(a, invert(a)), 1, "{a}");
        }
    }

    #[test]
    fn a_split_worked_by_hand_comes_out_the_same() {
        // p(x) = 0x42 + 0x53 x + 0x80 x², with 2 · 0x53 = 0xa6, 4 · 0x80 = 0x36, 3 · 0x53 = 0xf5, 5 · 0x80 = 0xb6
        let made = split(&[0x42], 3, 3, filled(|i| [0x53, 0x80][i])).unwrap();
        let exposed: Vec<&[u8]> = made.iter().map(SecretBytes::expose).collect();
        assert_eq!(exposed, [[0x91, 1], [0xd2, 2], [0x01, 3]]);
        assert_eq!(combine(&made).unwrap().expose(), [0x42]);
        // any points do, in any order: p(x) = 0x42 + 0x53 x at 0xca and 1
        let other = shares(&[&[0x42 ^ 0x01, 0xca], &[0x42 ^ 0x53, 1]]);
        assert_eq!(combine(&other).unwrap().expose(), [0x42]);
    }

    #[test]
    fn a_split_that_makes_no_sense_is_refused() {
        let long = vec![1; SECRET_BYTES_MAX + 1];
        for (secret, threshold, shares, error) in [
            (&[][..], 1, 1, SplitError::SecretLength),
            (&long, 1, 1, SplitError::SecretLength),
            (&[1], 0, 0, SplitError::Threshold),
            (&[1], 0, 3, SplitError::Threshold),
            (&[1], 4, 3, SplitError::Threshold),
        ] {
            assert_eq!(split(secret, threshold, shares, filled(|_| 1)).unwrap_err(), error);
        }
        assert_eq!(split(&[1], 2, 3, |_| Err(7)).unwrap_err(), SplitError::Random(7));
    }

    #[test]
    fn shares_that_do_not_fit_are_refused() {
        let long = vec![1; SECRET_BYTES_MAX + 2];
        for (raw, error) in [
            (&[][..], CombineError::NoShares),
            (&[&[][..]], CombineError::ShareLength),
            (&[&[1]], CombineError::ShareLength),
            (&[&long], CombineError::ShareLength),
            (&[&[9, 1], &[9, 9, 2]], CombineError::ShareLength),
            (&[&[9, 1], &[9, 0]], CombineError::ShareNumber),
            (&[&[9, 1], &[8, 2], &[7, 1]], CombineError::DuplicateShare),
        ] {
            assert_eq!(combine(&shares(raw)).unwrap_err(), error);
        }
    }

    #[test]
    fn one_share_of_two_tells_nothing() {
        // over all coefficients, one share takes each value once, whatever the secret
        for secret in [0, 1, 0x42, 0xff] {
            for share in [0, 1, 2, 254] {
                let mut seen: Vec<u8> = (0..=255)
                    .map(|coefficient| split(&[secret], 2, 255, filled(|_| coefficient)).unwrap()[share].expose()[0])
                    .collect();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..=255), "secret {secret}, share {share}");
            }
        }
    }

    #[test]
    fn the_extremes_work() {
        for (threshold, count) in [(1, 1), (1, 255), (255, 255)] {
            let made = split(b"secret", threshold, count, filled(|i| i.to_le_bytes()[0] ^ 0x5a)).unwrap();
            assert_eq!(made.len(), usize::from(count));
            assert_eq!(combine(&made[made.len() - usize::from(threshold)..]).unwrap().expose(), b"secret");
        }
    }

    proptest! {
        #[test]
        fn any_sufficient_choice_of_shares_gives_the_secret_back(
            secret in proptest::collection::vec(any::<u8>(), 1..64),
            (threshold, count) in (1..=20u8).prop_flat_map(|count| (1..=count, Just(count))),
            random in proptest::collection::vec(any::<u8>(), 64 * 20),
            order in any::<[u8; 20]>(),
        ) {
            let mut made = split(&secret, threshold, count, filled(|i| random[i])).unwrap();
            made.sort_by_key(|share| order[usize::from(share.expose()[secret.len()]) - 1]);
            for enough in usize::from(threshold)..=made.len() {
                let combined = combine(&made[..enough]).unwrap();
                prop_assert_eq!(combined.expose(), &secret[..]);
            }
        }

        #[test]
        fn an_altered_share_alters_the_secret(
            secret in any::<[u8; 8]>(), random in any::<[u8; 16]>(), at in 0..8usize, flip in 1..=255u8,
        ) {
            let mut made = split(&secret, 3, 5, filled(|i| random[i])).unwrap();
            made[1].expose_mut()[at] ^= flip;
            let combined = combine(&made[..3]).unwrap();
            prop_assert_ne!(combined.expose()[at], secret[at]);
        }
    }
}
