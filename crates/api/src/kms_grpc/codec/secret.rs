//! Secrets on their way in and out of messages, which know plain bytes only.

use bytes::Bytes;
use envelope::SecretBytes;
use zeroize::Zeroize as _;

/// The secret, copied out of what was decoded, which is wiped.
pub(crate) fn take(decoded: Bytes) -> SecretBytes {
    let secret = SecretBytes::copy_from(&decoded);
    wipe([decoded]);
    secret
}

/// Wipes what was decoded from one message. Its fields are slices of one buffer, so they are given up together: when the
/// first is the only one left, it owns the buffer from itself to the end. How many bytes that was; none where somebody else
/// holds a part of it.
pub(crate) fn wipe(decoded: impl IntoIterator<Item = Bytes>) -> usize {
    // decoding goes forward, so the first field is the lowest slice
    let mut fields = decoded.into_iter().filter(|field| !field.is_empty());
    let Some(first) = fields.next() else { return 0 };
    fields.for_each(drop);
    let Ok(mut buffer) = first.try_into_mut() else { return 0 };
    buffer.resize(buffer.capacity(), 0);
    buffer.as_mut().zeroize();
    buffer.len()
}

/// The secret as a field of a reply: wiped when the reply has been encoded and is dropped.
pub(crate) fn wiped_after(secret: SecretBytes) -> Bytes {
    struct Owner(SecretBytes);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.expose()
        }
    }
    Bytes::from_owner(Owner(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proto::kms::{BatchEncryptRequest, EncryptRequest};

    /// As tonic decodes: from a buffer that is given up afterwards.
    fn decoded<M: prost::Message + Default>(message: &M) -> M {
        let mut buffer = BytesMut::with_capacity(8192);
        message.encode(&mut buffer).unwrap();
        M::decode(&mut buffer).unwrap()
    }

    fn request(plaintext: &'static [u8]) -> EncryptRequest {
        EncryptRequest { key_id: "alias/a".into(), plaintext: Bytes::from_static(plaintext), ..Default::default() }
    }

    #[test]
    fn what_a_secret_was_decoded_from_is_wiped_to_the_end_of_its_buffer() {
        let one = decoded(&request(b"secret"));
        assert!(wipe([one.plaintext]) >= 6);
        let items = vec![request(b"one"), request(b""), request(b"three")];
        let many = decoded(&BatchEncryptRequest { items });
        let (first, last) = (&many.items[0].plaintext, &many.items[2].plaintext);
        let span = last.as_ptr() as usize + last.len() - first.as_ptr() as usize;
        assert!(span > 8 && wipe(many.items.into_iter().map(|item| item.plaintext)) >= span);
        assert_eq!(take(decoded(&request(b"secret")).plaintext).expose(), b"secret");
        assert_eq!(wipe([Bytes::new()]), 0);
    }

    #[test]
    fn what_others_hold_is_left_alone() {
        let shared = Bytes::from(b"secret".to_vec());
        assert_eq!(wipe([shared.clone()]), 0);
        assert_eq!(shared, "secret");
    }

    #[test]
    fn a_reply_carries_the_secret() {
        assert_eq!(wiped_after(SecretBytes::copy_from(b"secret")), "secret");
    }
}
