// Verifies logs of C2SP's layout with what others wrote: golang.org/x/mod/sumdb, Tessera, transparency-dev/formats.
// Reads a folder's name a line, and answers a line for each: "ok SIZE", or why not. With "fsck " before the name, Tessera's
// fsck judges alone, and no SIZE is told.
//
// usage: tlog_go LOG_VKEY WITNESS_VKEY
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"k8s.io/klog/v2"
)

func main() {
	klog.InitFlags(nil)
	flag.Set("logtostderr", "false")
	flag.Set("stderrthreshold", "FATAL")
	flag.Parse()
	logKey, err := note.NewVerifier(flag.Arg(0))
	if err != nil {
		fatal(err)
	}
	witnessKey, err := fnote.NewVerifierForCosignatureV1(flag.Arg(1))
	if err != nil {
		fatal(err)
	}
	folders := bufio.NewScanner(os.Stdin)
	for folders.Scan() {
		var size int64
		var err error
		dir, alone := strings.CutPrefix(folders.Text(), "fsck ")
		if alone {
			err = checkLog(dir, logKey)
		} else {
			size, err = verify(dir, logKey, witnessKey)
		}
		if err != nil {
			fmt.Printf("not verified: %.200s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Printf("ok %d\n", size)
		}
	}
}

// workers of fsck: more than a log here has tiles, as version 1.0.4 waits for ever when each of them met a bad tile.
const workers = 512

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}

func verify(dir string, logKey, witnessKey note.Verifier) (int64, error) {
	checkpoint, err := openCheckpoint(dir, logKey, witnessKey)
	if err != nil {
		return 0, fmt.Errorf("checkpoint: %w", err)
	}
	tree := tlog.Tree{N: int64(checkpoint.Size)}
	copy(tree.Hash[:], checkpoint.Hash)
	reader := tlog.TileHashReader(tree, &tiles{dir})
	if err := checkEntries(dir, tree, reader); err != nil {
		return 0, fmt.Errorf("entries: %w", err)
	}
	if err := checkProofs(dir, logKey, tree, reader); err != nil {
		return 0, fmt.Errorf("proofs: %w", err)
	}
	if err := checkLog(dir, logKey); err != nil {
		return 0, fmt.Errorf("fsck: %w", err)
	}
	return tree.N, nil
}

// checkLog makes all tiles anew from the entries, by Tessera's own code, and compares.
func checkLog(dir string, logKey note.Verifier) error {
	hashes := func(bundle []byte) ([][]byte, error) {
		entries, err := split(bundle)
		hashed := make([][]byte, len(entries))
		for i, entry := range entries {
			hashed[i] = rfc6962.DefaultHasher.HashLeaf(entry)
		}
		return hashed, err
	}
	files := client.FileFetcher{Root: dir}
	check := fsck.New(logKey.Name(), logKey, files, hashes, fsck.Opts{N: workers})
	return check.Check(context.Background())
}

// openCheckpoint demands the log's line and the witness's. The base64 must be the only one of its bytes: Go's packages
// also take others, of which no signature says anything.
func openCheckpoint(dir string, logKey, witnessKey note.Verifier) (*log.Checkpoint, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return nil, err
	}
	checkpoint, _, signed, err := log.ParseCheckpoint(raw, logKey.Name(), logKey, witnessKey)
	if err != nil {
		return nil, err
	}
	if len(signed.Sigs) != 2 {
		return nil, fmt.Errorf("%d lines verify, of the log and the witness", len(signed.Sigs))
	}
	for _, line := range signed.Sigs {
		if _, err := base64.StdEncoding.Strict().DecodeString(line.Base64); err != nil {
			return nil, err
		}
		if line.Hash == witnessKey.KeyHash() {
			if _, err := fnote.CoSigV1Timestamp(line); err != nil {
				return nil, err
			}
		}
	}
	return checkpoint, nil
}

// tiles reads C2SP's paths, which differ from those of Go's checksum database by leaving out the height.
type tiles struct{ dir string }

func (t *tiles) Height() int { return 8 }

func (t *tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (t *tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(wanted))
	for i, tile := range wanted {
		path, found := strings.CutPrefix(tile.Path(), "tile/8/")
		if !found {
			return nil, fmt.Errorf("no such tile: %s", tile.Path())
		}
		var err error
		if data[i], err = os.ReadFile(filepath.Join(t.dir, "tile", path)); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// checkEntries hashes every entry and compares it with its leaf under the signed root.
func checkEntries(dir string, tree tlog.Tree, reader tlog.HashReader) error {
	var computed []tlog.Hash
	var indexes []int64
	for first := int64(0); first < tree.N; first += 256 {
		tile := tlog.Tile{H: 8, L: -1, N: first / 256, W: int(min(256, tree.N-first))}
		path, _ := strings.CutPrefix(tile.Path(), "tile/8/data/")
		bundle, err := os.ReadFile(filepath.Join(dir, "tile", "entries", path))
		if err != nil {
			return err
		}
		entries, err := split(bundle)
		if err != nil || len(entries) != tile.W {
			return fmt.Errorf("%s has %d entries: %v", path, len(entries), err)
		}
		for _, entry := range entries {
			indexes = append(indexes, tlog.StoredHashIndex(0, int64(len(computed))))
			computed = append(computed, tlog.RecordHash(entry))
		}
	}
	leaves, err := reader.ReadHashes(indexes)
	if err != nil {
		return err
	}
	for i := range leaves {
		if leaves[i] != computed[i] {
			return fmt.Errorf("entry %d is not its leaf", i)
		}
	}
	return nil
}

func split(bundle []byte) ([][]byte, error) {
	var entries [][]byte
	for rest := bundle; len(rest) > 0; {
		if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
			return entries, errors.New("a bundle ends within an entry")
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		entries, rest = append(entries, rest[2:end]), rest[end:]
	}
	// Tessera reads the same
	var theirs api.EntryBundle
	if err := theirs.UnmarshalText(bundle); err != nil || len(theirs.Entries) != len(entries) {
		return entries, fmt.Errorf("tessera reads %d entries: %v", len(theirs.Entries), err)
	}
	return entries, nil
}

// checkProofs takes the proofs that stand in the folder, and compares them with those that Go makes from the tiles.
func checkProofs(dir string, logKey note.Verifier, tree tlog.Tree, reader tlog.HashReader) error {
	files := client.FileFetcher{Root: dir}
	builder, err := client.NewProofBuilder(context.Background(), uint64(tree.N), files.ReadTile)
	if err != nil {
		return err
	}
	names, err := os.ReadDir(filepath.Join(dir, "proofs"))
	if err != nil {
		return err
	}
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join(dir, "proofs", name.Name()))
		if err != nil {
			return err
		}
		if strings.HasSuffix(name.Name(), ".tlog-proof") {
			err = checkProof(dir, string(raw), tree, reader, builder)
		} else if strings.HasSuffix(name.Name(), ".receipt") {
			err = checkReceipt(raw, logKey, tree, reader)
		} else {
			err = checkConsistency(string(raw), tree, reader, builder)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name.Name(), err)
		}
	}
	return nil
}

func checkProof(dir, proof string, tree tlog.Tree, reader tlog.HashReader, builder *client.ProofBuilder) error {
	head, note, _ := strings.Cut(proof, "\n\n")
	lines := strings.Split(head, "\n")
	if len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("no tlog-proof")
	}
	checkpoint, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil || note != string(checkpoint) {
		return fmt.Errorf("another checkpoint: %v", err)
	}
	extra, isExtra := strings.CutPrefix(lines[1], "extra ")
	number, isIndex := strings.CutPrefix(lines[2], "index ")
	index, err := strconv.ParseInt(number, 10, 64)
	if !isExtra || !isIndex || err != nil || number != strconv.FormatInt(index, 10) || index >= tree.N {
		return fmt.Errorf("malformed: %v", err)
	}
	hashes, err := decode(append([]string{extra}, lines[3:]...))
	if err != nil {
		return err
	}
	leaf, path := hashes[0], tlog.RecordProof(hashes[1:])
	if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, leaf); err != nil {
		return err
	}
	theirs, err := tlog.ProveRecord(tree.N, index, reader)
	if err != nil || !slices.Equal(theirs, path) {
		return fmt.Errorf("sumdb proves otherwise: %v", err)
	}
	built, err := builder.InclusionProof(context.Background(), uint64(index))
	return same(built, path, err)
}

// receipt is strongroom.audit.v1.Receipt.
type receipt struct {
	keyID               []byte
	first, count, index int64
	leaf                tlog.Hash
	path                tlog.RecordProof
	signature           []byte
}

func parseReceipt(raw []byte) (*receipt, error) {
	malformed := errors.New("no receipt")
	r := new(receipt)
	for len(raw) > 0 {
		tag, n := binary.Uvarint(raw)
		if n <= 0 {
			return nil, malformed
		}
		number, m := binary.Uvarint(raw[n:])
		if m <= 0 {
			return nil, malformed
		}
		raw = raw[n+m:]
		var value []byte
		if tag&7 == 2 {
			if number > uint64(len(raw)) {
				return nil, malformed
			}
			value, raw = raw[:number], raw[number:]
		}
		var hash tlog.Hash
		copy(hash[:], value)
		switch {
		case tag == 1<<3|2:
			r.keyID = value
		case tag == 2<<3:
			r.first = int64(number)
		case tag == 3<<3:
			r.count = int64(number)
		case tag == 4<<3:
			r.index = int64(number)
		case tag == 5<<3|2 && len(value) == tlog.HashSize:
			r.leaf = hash
		case tag == 6<<3|2 && len(value)%tlog.HashSize == 0:
			for ; len(value) > 0; value = value[tlog.HashSize:] {
				copy(hash[:], value)
				r.path = append(r.path, hash)
			}
		case tag == 7<<3|2:
			r.signature = value
		default:
			return nil, malformed
		}
	}
	return r, nil
}

// checkReceipt reads what a caller gets with its answer: a leaf, its path to the root of the entries that became durable
// together, and the log's signature of that root. The log must have those entries.
func checkReceipt(raw []byte, logKey note.Verifier, tree tlog.Tree, reader tlog.HashReader) error {
	r, err := parseReceipt(raw)
	if err != nil {
		return err
	}
	count := r.count
	if !bytes.Equal(r.keyID, binary.BigEndian.AppendUint32(nil, logKey.KeyHash())) || r.first < 0 || count < 1 || count > tree.N || r.first > tree.N-count {
		return errors.New("of another log, or not in it")
	}
	// the same root over the log's own leaves
	leaves := make([]int64, count)
	for i := range leaves {
		leaves[i] = tlog.StoredHashIndex(0, r.first+int64(i))
	}
	found, err := reader.ReadHashes(leaves)
	if err != nil {
		return err
	}
	var stored []tlog.Hash
	own := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, at := range indexes {
			hashes[i] = stored[at]
		}
		return hashes, nil
	})
	for i, leaf := range found {
		more, err := tlog.StoredHashesForRecordHash(int64(i), leaf, own)
		if err != nil {
			return err
		}
		stored = append(stored, more...)
	}
	root, err := tlog.TreeHash(count, own)
	if err != nil {
		return err
	}
	if err := tlog.CheckRecord(r.path, count, root, r.index-r.first, r.leaf); err != nil {
		return fmt.Errorf("the log has not kept it: %w", err)
	}
	body := fmt.Sprintf("strongroom audit batch v1\n%s\n%d\n%d\n%s\n", logKey.Name(), r.first, count, root)
	if !logKey.Verify([]byte(body), r.signature) {
		return errors.New("nobody signed it")
	}
	return nil
}

// checkConsistency reads the body of a witness's add-checkpoint.
func checkConsistency(request string, tree tlog.Tree, reader tlog.HashReader, builder *client.ProofBuilder) error {
	head, _, _ := strings.Cut(request, "\n\n")
	lines := strings.Split(head, "\n")
	number, isOld := strings.CutPrefix(lines[0], "old ")
	old, err := strconv.ParseInt(number, 10, 64)
	if !isOld || err != nil || old < 1 || old > tree.N || number != strconv.FormatInt(old, 10) {
		return fmt.Errorf("malformed: %v", err)
	}
	proof, err := decode(lines[1:])
	if err != nil {
		return err
	}
	oldHash, err := tlog.TreeHash(old, reader)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(tlog.TreeProof(proof), tree.N, tree.Hash, old, oldHash); err != nil {
		return err
	}
	theirs, err := tlog.ProveTree(tree.N, old, reader)
	if err != nil || !slices.Equal(theirs, proof) {
		return fmt.Errorf("sumdb proves otherwise: %v", err)
	}
	built, err := builder.ConsistencyProof(context.Background(), uint64(old), uint64(tree.N))
	return same(built, proof, err)
}

func same(built [][]byte, proof []tlog.Hash, err error) error {
	equal := func(a []byte, b tlog.Hash) bool { return bytes.Equal(a, b[:]) }
	if err != nil || !slices.EqualFunc(built, proof, equal) {
		return fmt.Errorf("tessera proves otherwise: %v", err)
	}
	return nil
}

func decode(lines []string) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(lines))
	for i, line := range lines {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return nil, fmt.Errorf("no hash: %q", line)
		}
		copy(hashes[i][:], raw)
	}
	return hashes, nil
}
