//! Small durable records in the token: private CKO_DATA objects, found by label.
//!
//! ```text
//! CKA_APPLICATION "strongroom"   CKA_LABEL "strongroom/<name>"
//! CKA_VALUE       sequence u64 ‖ body ‖ SHA-256 of both                             integers big-endian
//! ```
//!
//! Always: the new object is there before the old one goes; the highest whole sequence counts.
//! Never: a record that is there and damaged is taken for one that is missing.

use crate::device::Link;
use crate::error::Fault;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use envelope::mac::{equal, sha256};
use hsm_api::HsmError;

pub(crate) const APPLICATION: &str = "strongroom";

/// A record as it was read or written last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) sequence: u64,
    pub(crate) body: Vec<u8>,
}

/// What stands under a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    Missing,
    Damaged,
    Whole(Record),
}

pub(crate) fn read(link: &mut Link<'_>, name: &str) -> Result<Stored, Fault> {
    let mut stored = Stored::Missing;
    for object in find(link, name)? {
        let value = link.attributes(object, &[AttributeType::Value])?;
        let record = value
            .iter()
            .find_map(|attribute| if let Attribute::Value(bytes) = attribute { decode(bytes) } else { None });
        stored = match (stored, record) {
            (Stored::Missing | Stored::Damaged, Some(record)) => Stored::Whole(record),
            (Stored::Whole(best), Some(record)) if record.sequence > best.sequence => Stored::Whole(record),
            (Stored::Missing, None) => Stored::Damaged,
            (other, _) => other,
        };
    }
    Ok(stored)
}

/// Writes `body` as the record after `sequence`; when this returns, the module says that it is stored.
pub(crate) fn write(link: &mut Link<'_>, name: &str, sequence: u64, body: &[u8]) -> Result<u64, Fault> {
    let older = find(link, name)?;
    let sequence = sequence.checked_add(1).ok_or(HsmError::OutOfRange)?;
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Modifiable(false),
        Attribute::Application(APPLICATION.into()),
        Attribute::Label(label(name)),
        Attribute::Value(encode(sequence, body)),
    ];
    link.call(|session| session.create_object(&template))?;
    older.into_iter().try_for_each(|object| link.destroy(object))?;
    Ok(sequence)
}

pub(crate) fn remove(link: &mut Link<'_>, name: &str) -> Result<(), Fault> {
    find(link, name)?.into_iter().try_for_each(|object| link.destroy(object))
}

fn find(link: &mut Link<'_>, name: &str) -> Result<Vec<ObjectHandle>, Fault> {
    link.find(&[Attribute::Class(ObjectClass::DATA), Attribute::Token(true), Attribute::Label(label(name))])
}

fn label(name: &str) -> Vec<u8> {
    format!("{APPLICATION}/{name}").into_bytes()
}

fn encode(sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut out = sequence.to_be_bytes().to_vec();
    out.extend_from_slice(body);
    let check = sha256(&out);
    out.extend_from_slice(&check);
    out
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let (covered, check) = bytes.split_last_chunk::<32>()?;
    let (sequence, body) = covered.split_first_chunk::<8>()?;
    equal(&sha256(covered), check).then(|| Record { sequence: u64::from_be_bytes(*sequence), body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_or_damaged() {
        let bytes = encode(7, b"body");
        assert_eq!(decode(&bytes), Some(Record { sequence: 7, body: b"body".to_vec() }));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "{cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&altered), None, "{bit}");
        }
    }
}
