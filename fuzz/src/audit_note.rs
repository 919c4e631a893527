//! What others send as text: notes, keys, checkpoints, receipts, requests to a witness.

use audit::checkpoint::Checkpoint;
use audit::note::{Note, NoteError, VerifierKey};
use audit::proof::Proof;
use audit::receipt::Receipt;
use audit::witness::{AddCheckpoint, cosignatures};

/// Each parser over the whole input; what one takes is written back byte by byte, and says nothing under a key of ours.
pub fn audit_note(data: &[u8]) {
    let key = VerifierKey::ed25519("fuzzed", [0xd7; 32]).expect("it is a key");
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.encode().as_bytes(), data);
        assert!(matches!(note.verify(&key), Err(NoteError::Unsigned | NoteError::Rejected)), "nobody signed this");
        let own = note.signatures().iter().map(ToString::to_string).collect::<String>();
        if let Ok(found) = cosignatures(&note, &own, std::slice::from_ref(&key)) {
            assert_eq!(found, [], "nobody signed this");
        }
    }
    if let Ok(proof) = Proof::parse(data) {
        assert_eq!(proof.encode().as_bytes(), data);
        assert!(proof.verify(&key, proof.leaf()).is_err(), "nobody signed this");
    }
    if let Ok(receipt) = Receipt::parse(data) {
        assert_eq!(receipt.encode(), data);
        assert!(receipt.verify(&key, receipt.leaf()).is_err(), "nobody signed this");
    }
    if let Some(request) = AddCheckpoint::parse(data) {
        assert_eq!(request.encode().as_bytes(), data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(vkey) = VerifierKey::parse(text) {
        assert_eq!(vkey.to_string(), text);
    }
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert!(text.starts_with(&checkpoint.body()), "extension lines come last");
        assert_eq!(Checkpoint::parse(&checkpoint.body()), Ok(checkpoint));
    }
}
