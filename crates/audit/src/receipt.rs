//! Receipts: that the log has an entry, as the boundary signed it while the entry was made durable. What is signed, and how it
//! is written, says `proto/strongroom/audit/v1/receipt.proto`.
//!
//! It promises; the log keeps: the verifier of the log says whether it did.
//! Never: believed because it is well formed: [`Receipt::verify`] says by whose signature.

use crate::note::VerifierKey;
use crate::record::wire::{self, Fields};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envelope::merkle::{Hash, Layers, root_over};
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    #[error("this is not a receipt of the log")]
    Malformed,
    #[error("the receipt is of another log")]
    Foreign,
    /// That key never signed that this entry stands in that place.
    #[error("the receipt's signature was rejected")]
    Rejected,
}

/// Entries that became durable together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Which log.
    pub origin: String,
    /// The number of its first entry.
    pub first: u64,
    /// At least one.
    pub count: u32,
    pub root: Hash,
}

impl Batch {
    /// What the boundary signs. The third line of a checkpoint is a hash, of this a number: neither passes for the other.
    pub fn body(&self) -> String {
        let Self { origin, first, count, root } = self;
        format!("strongroom audit batch v1\n{origin}\n{first}\n{count}\n{}\n", STANDARD.encode(root))
    }

    /// Numbers of its entries in the log.
    pub fn entries(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.count)
    }

    /// Whether the log's key signed it.
    pub(crate) fn is_signed(&self, key: &VerifierKey, signature: &[u8; 64]) -> bool {
        key.confirm(&self.body(), signature).is_ok()
    }
}

/// The leaf of an entry, its place and its way to the root of a batch that the log signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Of all receipts of a batch there is one.
    batch: Arc<Shared>,
    index: u64,
    leaf: Hash,
    path: Vec<Hash>,
}

/// What the receipts of a batch share.
#[derive(Debug, PartialEq, Eq)]
struct Shared {
    key_id: [u8; 4],
    first: u64,
    count: u32,
    signature: [u8; 64],
}

/// A batch that the log signed: its entries have receipts.
#[derive(Debug)]
pub struct SignedBatch<'a> {
    tree: &'a Layers,
    shared: Arc<Shared>,
}

impl<'a> SignedBatch<'a> {
    /// Of the batch over the leaves of `tree`, which the log of `key` signed so.
    pub fn of(batch: &Batch, tree: &'a Layers, key: &VerifierKey, signature: [u8; 64]) -> Self {
        let Batch { first, count, .. } = *batch;
        Self { tree, shared: Arc::new(Shared { key_id: key.id(), first, count, signature }) }
    }

    /// The receipt of the entry in this place of it.
    pub fn receipt(&self, at: usize) -> Option<Receipt> {
        let (leaf, path) = (*self.tree.leaf(at)?, self.tree.path(at)?);
        let index = self.shared.first.checked_add(u64::try_from(at).ok()?)?;
        Some(Receipt { batch: Arc::clone(&self.shared), index, leaf, path })
    }
}

impl Receipt {
    /// Refuses what is not written as [`Receipt::encode`] writes it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        Self::read(bytes).filter(|receipt| receipt.encode() == bytes).ok_or(ReceiptError::Malformed)
    }

    /// `strongroom.audit.v1.Receipt`.
    pub fn encode(&self) -> Vec<u8> {
        let Shared { key_id, first, count, signature } = &*self.batch;
        let path = self.path.as_flattened();
        let mut out = Vec::with_capacity(RESERVED + path.len());
        wire::bytes(&mut out, KEY_ID, key_id);
        wire::uint(&mut out, FIRST, *first);
        wire::uint(&mut out, COUNT, (*count).into());
        wire::uint(&mut out, INDEX, self.index);
        wire::bytes(&mut out, LEAF, &self.leaf);
        wire::bytes(&mut out, PATH, path);
        wire::bytes(&mut out, SIGNATURE, signature);
        out
    }

    /// The entry's number in the log.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The hash of the entry, as the log answered it.
    pub fn leaf(&self) -> &Hash {
        &self.leaf
    }

    /// That the log of `key` signed a batch with `leaf` in its place. With [`Receipt::leaf`] it says that the receipt is the
    /// log's; with the hash of an entry, that the receipt is that entry's.
    pub fn verify(&self, key: &VerifierKey, leaf: &Hash) -> Result<Batch, ReceiptError> {
        let Shared { key_id, first, count, signature } = &*self.batch;
        if *key_id != key.id() {
            return Err(ReceiptError::Foreign);
        }
        let within = self.index.checked_sub(*first).ok_or(ReceiptError::Rejected)?;
        let root = root_over(leaf, within, (*count).into(), &self.path).map_err(|_| ReceiptError::Rejected)?;
        let batch = Batch { origin: key.name().to_owned(), first: *first, count: *count, root };
        let is_sound = batch.is_signed(key, signature) && *leaf == self.leaf;
        if is_sound { Ok(batch) } else { Err(ReceiptError::Rejected) }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (mut first, mut count, mut index) = (0, 0, 0);
        let (mut key_id, mut leaf, mut path, mut signature) = (None, None, Vec::new(), None);
        for field in Fields(bytes) {
            let (field, value) = field.ok()?;
            match field {
                KEY_ID => key_id = Some(value.bytes().ok()?.try_into().ok()?),
                FIRST => first = value.uint().ok()?,
                COUNT => count = u32::try_from(value.uint().ok()?).ok()?,
                INDEX => index = value.uint().ok()?,
                LEAF => leaf = Some(value.bytes().ok()?.try_into().ok()?),
                PATH => path = hashes(value.bytes().ok()?)?,
                SIGNATURE => signature = Some(value.bytes().ok()?.try_into().ok()?),
                _ => return None,
            }
        }
        let is_batch = count > 0 && first.checked_add(count.into()).is_some();
        let batch = Arc::new(Shared { key_id: key_id?, first, count, signature: signature? });
        is_batch.then_some(Self { batch, index, leaf: leaf?, path })
    }
}

fn hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let (hashes, []) = bytes.as_chunks() else { return None };
    (hashes.len() <= PATH_MAX).then(|| hashes.to_vec())
}

/// Numbers of its fields.
const KEY_ID: u32 = 1;
const FIRST: u32 = 2;
const COUNT: u32 = 3;
const INDEX: u32 = 4;
const LEAF: u32 = 5;
const PATH: u32 = 6;
const SIGNATURE: u32 = 7;
/// A tree that 32 bits count is no higher.
const PATH_MAX: usize = 32;
/// All but the path, at most.
const RESERVED: usize = 144;

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use envelope::merkle::leaf_hash;
    use protox::prost_reflect::{DescriptorPool, DynamicMessage};

    fn pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap()
    }

    fn key() -> VerifierKey {
        VerifierKey::ed25519("example.com/log", pair().public_key().as_ref().try_into().unwrap()).unwrap()
    }

    fn leaf(index: u64) -> Hash {
        leaf_hash(&index.to_be_bytes())
    }

    /// Entry `within` of the `count` that stand from `first` on.
    fn receipt(first: u64, count: u32, within: u32) -> Receipt {
        let entries = first..first + u64::from(count);
        let tree = Layers::over(entries.map(leaf).collect());
        let batch = Batch { origin: key().name().into(), first, count, root: tree.root() };
        let signature = pair().sign(batch.body().as_bytes()).as_ref().try_into().unwrap();
        SignedBatch::of(&batch, &tree, &key(), signature).receipt(within as usize).unwrap()
    }

    #[test]
    fn a_receipt_is_read_as_it_was_written_and_leads_to_the_signed_root() {
        for (first, count, within) in [(0, 1, 0), (7, 1, 0), (7, 2, 1), (41, 7, 6), (1000, 40, 17), (9, 300, 299)] {
            let receipt = receipt(first, count, within);
            let (bytes, index) = (receipt.encode(), first + u64::from(within));
            let read = Receipt::parse(&bytes).unwrap();
            assert_eq!(read, receipt);
            let batch = read.verify(&key(), &leaf(index)).unwrap();
            assert_eq!(batch.entries(), first..first + u64::from(count));
            assert_eq!((read.index(), read.leaf()), (index, &leaf(index)));
            assert_eq!(read.verify(&key(), &leaf(index + 1)), Err(ReceiptError::Rejected), "another entry");
        }
    }

    #[test]
    fn every_altered_bit_of_a_receipt_is_found() {
        let good = receipt(70, 30, 11).encode();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let verified = Receipt::parse(&bytes).and_then(|receipt| receipt.verify(&key(), &leaf(81)));
                assert!(verified.is_err(), "bit {bit} of byte {at}");
            }
            assert!(Receipt::parse(&good[..at]).is_err(), "cut before byte {at}");
        }
    }

    #[test]
    fn a_receipt_of_another_log_or_under_another_key_accuses_nobody() {
        let public = pair().public_key().as_ref().try_into().unwrap();
        for (name, public) in [("example.com/log", [1; 32]), ("example.com/other", public)] {
            let other = VerifierKey::ed25519(name, public).unwrap();
            assert_eq!(receipt(3, 9, 2).verify(&other, &leaf(5)), Err(ReceiptError::Foreign));
            // whoever says that it is that log's has not its signature
            let mut forged = receipt(3, 9, 2);
            let Shared { first, count, signature, .. } = *forged.batch;
            forged.batch = Arc::new(Shared { key_id: other.id(), first, count, signature });
            assert_eq!(forged.verify(&other, &leaf(5)), Err(ReceiptError::Rejected));
        }
    }

    #[test]
    fn the_schema_reads_it_and_writes_the_same() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
        let files = protox::compile(["strongroom/audit/v1/receipt.proto"], [root]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
        let schema = pool.get_message_by_name("strongroom.audit.v1.Receipt").unwrap();
        for receipt in [receipt(70, 30, 11), receipt(0, 1, 0)] {
            let bytes = receipt.encode();
            let message = DynamicMessage::decode(schema.clone(), &bytes[..]).unwrap();
            assert_eq!(message.unknown_fields().count(), 0);
            assert_eq!(protox::prost::Message::encode_to_vec(&message), bytes);
            let index = message.get_field_by_name("index").unwrap().as_u64();
            assert_eq!(index, Some(receipt.index()));
        }
    }

    #[test]
    fn what_is_no_receipt_is_refused() {
        let good = receipt(5, 9, 4).encode();
        let altered = |alter: &dyn Fn(&mut Receipt)| {
            let mut receipt = receipt(5, 9, 4);
            alter(&mut receipt);
            Receipt::parse(&receipt.encode()).and_then(|receipt| receipt.verify(&key(), receipt.leaf()))
        };
        let signed = |first, count| {
            move |receipt: &mut Receipt| {
                let Shared { key_id, signature, .. } = *receipt.batch;
                receipt.batch = Arc::new(Shared { key_id, first, count, signature });
            }
        };
        assert!(altered(&|_| {}).is_ok());
        for (first, count) in [(5, 0), (u64::MAX, 9)] {
            assert_eq!(altered(&signed(first, count)), Err(ReceiptError::Malformed));
        }
        assert_eq!(altered(&|receipt| receipt.path.resize(33, [0; 32])), Err(ReceiptError::Malformed));
        // another place, one before its batch, one behind it, another batch
        for index in [0, 4, 8, 10, 14, u64::MAX] {
            assert_eq!(altered(&|receipt| receipt.index = index), Err(ReceiptError::Rejected), "{index}");
        }
        for (first, count) in [(6, 9), (4, 9), (5, 8), (5, 10), (0, u32::MAX)] {
            assert_eq!(altered(&signed(first, count)), Err(ReceiptError::Rejected), "{first} {count}");
        }
        // a field twice, one that nobody knows, one of another kind, defaults that are told
        for more in [&good[..], &[0x40, 1], &[0x08, 1], &[0x3a, 0], &[0x30, 1]] {
            assert_eq!(Receipt::parse(&[&good, more].concat()), Err(ReceiptError::Malformed));
        }
    }
}
