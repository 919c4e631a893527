//! What a witness signs (c2sp.org/tlog-cosignature).

use crate::checkpoint::Checkpoint;

/// "Format": a cosignature is its time, big-endian, and the signature proper.
pub(crate) const TIMESTAMP_BYTES: usize = 8;

/// "Ed25519 signed message": two lines in front of the whole text.
pub(crate) fn note_message(time: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{text}").into_bytes()
}

/// "ML-DSA-44 signed message": `cosigned_message` of a whole tree. `None` where the text is no checkpoint, or a name has
/// not 1 to 255 bytes.
pub(crate) fn checkpoint_message(cosigner: &str, time: u64, text: &str) -> Option<Vec<u8>> {
    let checkpoint = Checkpoint::parse(text).ok()?;
    let mut message = b"subtree/v1\n\0".to_vec();
    prefixed(&mut message, cosigner)?;
    message.extend(time.to_be_bytes());
    prefixed(&mut message, &checkpoint.origin)?;
    message.extend(0u64.to_be_bytes());
    message.extend(checkpoint.size.to_be_bytes());
    message.extend(checkpoint.root);
    Some(message)
}

fn prefixed(message: &mut Vec<u8>, name: &str) -> Option<()> {
    message.push(u8::try_from(name.len()).ok().filter(|len| *len > 0)?);
    message.extend(name.as_bytes());
    Some(())
}
