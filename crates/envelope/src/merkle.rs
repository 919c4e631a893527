//! Merkle trees of RFC 6962 with SHA-256: hashes, tree heads, proofs and their verification.
//!
//! Always: leaves and nodes are hashed under different prefixes (§2.1), so that neither passes for the other.
//! Never: a proof believed that has a hash too many or too few.

use sha2::{Digest, Sha256};

/// A leaf's, a node's or a tree's hash.
pub type Hash = [u8; 32];

/// The proof does not lead to the root. Says no more: proof and roots may be an attacker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Merkle proof was rejected")]
pub struct ProofRejected;

/// `SHA-256(0x00 ‖ leaf)` (RFC 6962 §2.1).
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

/// `SHA-256(0x01 ‖ left ‖ right)` (RFC 6962 §2.1).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of the tree without leaves: the hash of nothing.
pub fn empty_root() -> Hash {
    crate::mac::sha256(b"")
}

/// Believes that the tree of `new_size` leaves under `new_root` extends the one of `old_size` under `old_root`
/// (RFC 9162 §2.1.4.2 for the proof of RFC 6962 §2.1.2). From no leaves, and from equal sizes, the proof is empty.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofRejected> {
    if old_size == 0 || old_size == new_size {
        let old_fits = if old_size == 0 { *old_root == empty_root() } else { old_root == new_root };
        let new_fits = new_size != 0 || *new_root == empty_root();
        return confirm(old_fits && new_fits && proof.is_empty());
    }
    if old_size > new_size {
        return Err(ProofRejected);
    }
    let (mut node, mut last) = (old_size - 1, new_size - 1);
    let shift = node.trailing_ones();
    (node, last) = (node >> shift, last >> shift);
    // a complete old tree is itself the first node, which the proof then leaves out
    let (first, rest) = match (old_size.is_power_of_two(), proof.split_first()) {
        (true, _) => (old_root, proof),
        (false, Some(parts)) => parts,
        (false, None) => return Err(ProofRejected),
    };
    let (mut old, mut new) = (*first, *first);
    for hash in rest {
        if last == 0 {
            return Err(ProofRejected);
        }
        if node & 1 == 1 || node == last {
            old = node_hash(hash, &old);
            new = node_hash(hash, &new);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            new = node_hash(&new, hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    confirm(last == 0 && old == *old_root && new == *new_root)
}

/// Believes that `leaf` is the hash of leaf `index` of the tree of `size` leaves under `root` (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, root: &Hash, proof: &[Hash]) -> Result<(), ProofRejected> {
    confirm(root_over(leaf, index, size, proof)? == *root)
}

/// The root to which an audit path leads from leaf `index` of a tree of `size` leaves (RFC 9162 §2.1.3.2).
pub fn root_over(leaf: &Hash, index: u64, size: u64, proof: &[Hash]) -> Result<Hash, ProofRejected> {
    if index >= size {
        return Err(ProofRejected);
    }
    let (mut node, mut last) = (index, size - 1);
    let mut computed = *leaf;
    for hash in proof {
        if last == 0 {
            return Err(ProofRejected);
        }
        if node & 1 == 1 || node == last {
            computed = node_hash(hash, &computed);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            computed = node_hash(&computed, hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last == 0 { Ok(computed) } else { Err(ProofRejected) }
}

/// A growing tree: holds the complete subtrees along its right edge only, at most 64 hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeHead {
    size: u64,
    /// Roots of complete subtrees, the largest first: one for each bit set in `size`.
    subtrees: Vec<Hash>,
}

impl TreeHead {
    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Hash) {
        // as in binary addition: each trailing one carries
        let keep = self.subtrees.len() - self.size.trailing_ones() as usize;
        let carried = self.subtrees.drain(keep..).rev().fold(leaf, |right, left| node_hash(&left, &right));
        self.subtrees.push(carried);
        self.size += 1;
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Hash {
        let mut from_right = self.subtrees.iter().rev().copied();
        let Some(last) = from_right.next() else { return empty_root() };
        from_right.fold(last, |right, left| node_hash(&left, &right))
    }
}

/// The root over leaf hashes.
pub fn root(leaves: &[Hash]) -> Hash {
    let mut head = TreeHead::default();
    leaves.iter().for_each(|leaf| head.push(*leaf));
    head.root()
}

/// The proof that the tree of all `leaves` extends that of the first `old_size` (RFC 6962 §2.1.2); hashes every leaf.
/// Empty where `old_size` is 0 or not below the number of leaves.
pub fn consistency_proof(leaves: &[Hash], old_size: usize) -> Vec<Hash> {
    let mut proof = Vec::new();
    if old_size == 0 || old_size >= leaves.len() {
        return proof;
    }
    let (mut leaves, mut old, mut complete) = (leaves, old_size, true);
    while old != leaves.len() {
        let (left, right) = leaves.split_at(split_point(leaves.len()));
        if old <= left.len() {
            proof.push(root(right));
            leaves = left;
        } else {
            proof.push(root(left));
            (leaves, old, complete) = (right, old - left.len(), false);
        }
    }
    if !complete {
        proof.push(root(leaves));
    }
    proof.reverse();
    proof
}

/// A whole tree, for the audit paths of many of its leaves: each node is hashed once.
#[derive(Debug, Clone)]
pub struct Layers {
    /// From the leaves up to the root. The last node of a layer that has no neighbour is the same one above.
    layers: Vec<Vec<Hash>>,
}

impl Layers {
    /// Over leaf hashes.
    pub fn over(leaves: Vec<Hash>) -> Self {
        let mut layers = vec![leaves];
        while let Some(layer) = layers.last().filter(|layer| layer.len() > 1) {
            let above = layer.chunks(2).map(|pair| match pair {
                [left, right] => node_hash(left, right),
                [alone, ..] => *alone,
                [] => empty_root(),
            });
            let above = above.collect();
            layers.push(above);
        }
        Self { layers }
    }

    pub fn root(&self) -> Hash {
        self.layers.last().and_then(|layer| layer.first()).copied().unwrap_or_else(empty_root)
    }

    /// The hash of leaf `index`.
    pub fn leaf(&self, index: usize) -> Option<&Hash> {
        self.layers.first()?.get(index)
    }

    /// The audit path of leaf `index` (RFC 6962 §2.1.1). `None` where there is no such leaf.
    pub fn path(&self, index: usize) -> Option<Vec<Hash>> {
        self.leaf(index)?;
        let neighbours = self.layers.iter().enumerate().filter_map(|(height, layer)| layer.get((index >> height) ^ 1));
        Some(neighbours.copied().collect())
    }
}

/// The largest power of two below `len`, which is at least 2.
fn split_point(len: usize) -> usize {
    len.next_power_of_two() / 2
}

fn confirm(fits: bool) -> Result<(), ProofRejected> {
    if fits { Ok(()) } else { Err(ProofRejected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE_MAX: usize = 64;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
    }

    /// MTH of RFC 6962 §2.1, word by word.
    fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest(b"").into(),
            [leaf] => *leaf,
            _ => {
                let mut k = 1;
                while k * 2 < leaves.len() {
                    k *= 2;
                }
                let mut bytes = vec![1];
                bytes.extend(naive_root(&leaves[..k]));
                bytes.extend(naive_root(&leaves[k..]));
                Sha256::digest(bytes).into()
            }
        }
    }

    /// SUBPROOF of RFC 6962 §2.1.2, word by word.
    fn naive_subproof(m: usize, leaves: &[Hash], complete: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if complete { Vec::new() } else { vec![naive_root(leaves)] };
        }
        let mut k = 1;
        while k * 2 < leaves.len() {
            k *= 2;
        }
        if m <= k {
            let mut proof = naive_subproof(m, &leaves[..k], complete);
            proof.push(naive_root(&leaves[k..]));
            proof
        } else {
            let mut proof = naive_subproof(m - k, &leaves[k..], false);
            proof.push(naive_root(&leaves[..k]));
            proof
        }
    }

    #[test]
    fn published_roots_come_out() {
        // the test leaves and roots of the Certificate Transparency reference implementation
        let raw: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let mut head = TreeHead::default();
        let mut roots = vec![hex::encode(head.root())];
        for leaf in raw {
            head.push(leaf_hash(leaf));
            roots.push(hex::encode(head.root()));
        }
        assert_eq!(
            roots,
            [
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
                "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
                "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
                "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
                "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
            ]
        );
    }

    #[test]
    fn roots_and_proofs_agree_with_the_recursive_definition() {
        let leaves = leaves(SIZE_MAX);
        let mut head = TreeHead::default();
        for new in 0..=SIZE_MAX {
            assert_eq!((head.size(), head.root()), (new as u64, naive_root(&leaves[..new])), "size {new}");
            for old in 1..=new {
                let proof = consistency_proof(&leaves[..new], old);
                assert_eq!(proof, naive_subproof(old, &leaves[..new], true), "{old} to {new}");
            }
            if let Some(leaf) = leaves.get(new) {
                head.push(*leaf);
            }
        }
    }

    #[test]
    fn consistency_holds_for_the_true_history_and_nothing_else() {
        let leaves = leaves(SIZE_MAX);
        let mut checked = 0;
        for new in 0..=SIZE_MAX {
            for old in 0..=new {
                let (old_root, new_root) = (naive_root(&leaves[..old]), naive_root(&leaves[..new]));
                let proof = consistency_proof(&leaves[..new], old);
                let verify = |old_size: usize, old_root: &Hash, new_size: usize, new_root: &Hash, proof: &[Hash]| {
                    verify_consistency(old_size as u64, old_root, new_size as u64, new_root, proof).is_ok()
                };
                assert!(verify(old, &old_root, new, &new_root, &proof), "{old} to {new}");
                let other = [0x5a; 32];
                assert!(!verify(old, &other, new, &new_root, &proof), "another old root, {old} to {new}");
                // from nothing, any new root is an extension
                assert_eq!(verify(old, &old_root, new, &other, &proof), old == 0 && new != 0, "{old} to {new}");
                for altered in altered(&proof) {
                    assert!(!verify(old, &old_root, new, &new_root, &altered), "an altered proof, {old} to {new}");
                    checked += 1;
                }
                if old < new {
                    assert!(!verify(new, &new_root, old, &old_root, &proof), "backwards, {new} to {old}");
                    assert!(old == 0 || !verify(old - 1, &old_root, new, &new_root, &proof), "{old} to {new}");
                }
            }
        }
        assert!(checked > 20_000, "only {checked} altered proofs were tried");
    }

    #[test]
    fn inclusion_holds_for_the_leaf_in_its_place_and_nothing_else() {
        let leaves = leaves(SIZE_MAX);
        for size in 1..=SIZE_MAX {
            let root = naive_root(&leaves[..size]);
            let tree = Layers::over(leaves[..size].to_vec());
            assert_eq!((tree.root(), tree.leaf(size), tree.path(size)), (root, None, None));
            for (index, own) in leaves[..size].iter().enumerate() {
                let proof = tree.path(index).unwrap();
                let verify = |leaf: &Hash, index: usize, size: usize, proof: &[Hash]| {
                    verify_inclusion(leaf, index as u64, size as u64, &root, proof).is_ok()
                };
                assert!(verify(own, index, size, &proof), "{index} of {size}");
                for elsewhere in (0..=size).filter(|elsewhere| *elsewhere != index) {
                    assert!(!verify(own, elsewhere, size, &proof), "{index} at {elsewhere} of {size}");
                }
                assert!(!verify(&leaf_hash(b"another"), index, size, &proof), "{index} of {size}");
                for altered in altered(&proof) {
                    assert!(!verify(own, index, size, &altered), "an altered proof, {index} of {size}");
                }
            }
            assert_eq!(verify_inclusion(&root, 0, 0, &root, &[]), Err(ProofRejected));
        }
    }

    #[test]
    fn a_fork_is_not_an_extension() {
        let (history, mut fork) = (leaves(20), leaves(33));
        fork[10] = leaf_hash(b"rewritten");
        let proof = consistency_proof(&fork, 20);
        assert_eq!(verify_consistency(20, &root(&history), 33, &root(&fork), &proof), Err(ProofRejected));
    }

    #[test]
    fn sizes_at_the_end_of_the_range_are_refused_without_panic() {
        let hashes = vec![[7; 32]; 130];
        for (old, new) in [(1, u64::MAX), (u64::MAX - 1, u64::MAX), (u64::MAX, u64::MAX), (1 << 63, u64::MAX)] {
            for len in [0, 1, 64, 126, 130] {
                let verified = verify_consistency(old, &[1; 32], new, &[2; 32], &hashes[..len]);
                assert_eq!(verified, Err(ProofRejected), "{old} to {new}, {len} hashes");
                assert_eq!(verify_inclusion(&[1; 32], old, new, &[2; 32], &hashes[..len]), Err(ProofRejected));
            }
        }
    }

    /// One hash altered, one missing, one more, two swapped.
    fn altered(proof: &[Hash]) -> Vec<Vec<Hash>> {
        let mut out = Vec::new();
        for i in 0..proof.len() {
            let mut flipped = proof.to_vec();
            flipped[i][31] ^= 1;
            let mut shorter = proof.to_vec();
            shorter.remove(i);
            out.extend([flipped, shorter]);
            if i > 0 {
                let mut swapped = proof.to_vec();
                swapped.swap(i - 1, i);
                out.push(swapped);
            }
        }
        for extra in [[0; 32], proof.last().copied().unwrap_or([1; 32])] {
            let mut longer = proof.to_vec();
            longer.push(extra);
            out.push(longer);
        }
        out
    }
}
