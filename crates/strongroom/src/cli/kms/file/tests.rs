use super::*;
use envelope::stream::{CHUNK_BYTES, SEALED_CHUNK_BYTES};
use envelope::suite1::{self, SealingKey};
use envelope::{Header, Kind, SecretKey, Suite};
use tokio::io::AsyncWriteExt as _;

fn blob() -> Vec<u8> {
    let header = Header {
        kind: Kind::CiphertextBlob,
        suite: Suite::KdfCommitGcm,
        key_id: [1; 16],
        key_version: 2,
        domain_id: [3; 16],
        generation: 0,
    };
    suite1::seal(
        &SealingKey::new(&SecretKey::init_with(|key| key.fill(7))),
        &header,
        &[4; 16],
        &[5; 12],
        &[6; 32],
        &[9; 32],
    )
}

fn data_key() -> DataKey {
    DataKey {
        key_id: "k-1".into(),
        key_version: 2,
        plaintext: SecretBytes::copy_from(&[9; 32]),
        ciphertext_blob: blob().into(),
    }
}

fn opened() -> OpenedDataKey {
    OpenedDataKey { key_id: "k-1".into(), key_version: 2, plaintext: SecretBytes::copy_from(&[9; 32]) }
}

fn files(input: &Path) -> Files {
    Files { input: input.to_owned(), out: None, force: false, preserve_mode: false }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn plaintext(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251).to_le_bytes()[0]).collect()
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The encrypted form of `plaintext`, made by the command's own path.
async fn encrypted(plaintext: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (clear, sealed) = (folder.path().join("f"), folder.path().join("f.sr"));
    std::fs::write(&clear, plaintext).unwrap();
    let done = encrypt(&files(&clear), &sealed, async || Ok(data_key())).await.unwrap();
    assert_eq!(done, Done { key_id: "k-1".into(), key_version: 2, bytes: plaintext.len() as u64 });
    assert_eq!((names(folder.path()), mode_of(&sealed)), (vec!["f".to_owned(), "f.sr".to_owned()], 0o600));
    std::fs::read(&sealed).unwrap()
}

/// Decrypts `sealed` into an empty folder; an error leaves it empty.
async fn decrypted(sealed: &[u8]) -> Result<Vec<u8>> {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (input, out) = (from.path().join("f.sr"), to.path().join("f"));
    std::fs::write(&input, sealed).unwrap();
    let ask = files(&input);
    let outcome = decrypt(&ask, &out, async |found| {
        anyhow::ensure!(found == blob(), "another blob than was put in");
        Ok(opened())
    });
    match outcome.await {
        Ok(done) => {
            assert_eq!((names(to.path()), mode_of(&out)), (vec!["f".to_owned()], 0o600));
            let plaintext = std::fs::read(&out).unwrap();
            assert_eq!(done.bytes, plaintext.len() as u64);
            Ok(plaintext)
        }
        Err(error) => {
            assert_eq!(names(to.path()), [""; 0], "{error:#}");
            Err(error)
        }
    }
}

#[tokio::test]
async fn files_of_every_awkward_length_come_back() {
    for len in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 200_000] {
        let plaintext = plaintext(len);
        assert_eq!(decrypted(&encrypted(&plaintext).await).await.unwrap(), plaintext, "{len}");
    }
}

#[tokio::test]
async fn a_cut_extended_or_reordered_file_leaves_nothing() {
    let whole = encrypted(&plaintext(2 * CHUNK_BYTES + 100)).await;
    let head = whole.len() - (2 * SEALED_CHUNK_BYTES + 116);
    let (header, body) = whole.split_at(head);
    let (a, rest) = body.split_at(SEALED_CHUNK_BYTES);
    let (b, c) = rest.split_at(SEALED_CHUNK_BYTES);
    let mut bad: Vec<(String, Vec<u8>)> = vec![
        ("extended by a byte".into(), [&whole[..], &[0]].concat()),
        ("extended by its last chunk".into(), [&whole[..], c].concat()),
        ("extended by itself".into(), [&whole[..], &whole].concat()),
        ("swapped".into(), [header, b, a, c].concat()),
        ("a chunk missing".into(), [header, b, c].concat()),
        ("a chunk doubled".into(), [header, a, a, c].concat()),
        ("a chunk of another file".into(), {
            let other = encrypted(&plaintext(2 * CHUNK_BYTES + 100)).await;
            [header, a, &other[head + SEALED_CHUNK_BYTES..][..SEALED_CHUNK_BYTES], c].concat()
        }),
    ];
    // every class of place where a file can end early
    let ends = [
        0,
        1,
        5,
        6,
        25,
        26,
        head - 1,
        head,
        head + 1,
        head + 16,
        head + SEALED_CHUNK_BYTES - 1,
        head + SEALED_CHUNK_BYTES,
        head + SEALED_CHUNK_BYTES + 1,
        head + 2 * SEALED_CHUNK_BYTES,
        head + 2 * SEALED_CHUNK_BYTES + 16,
        whole.len() - 1,
    ];
    bad.extend(ends.map(|end| (format!("cut at {end}"), whole[..end].to_vec())));
    for (name, sealed) in bad {
        let error = decrypted(&sealed).await.expect_err(&name);
        assert!(format!("{error:#}").contains("f.sr was not decrypted: "), "{name}: {error:#}");
    }
}

#[tokio::test]
async fn a_flipped_bit_leaves_nothing() {
    let whole = encrypted(&plaintext(CHUNK_BYTES + 9)).await;
    let head = whole.len() - (SEALED_CHUNK_BYTES + 9 + 16);
    // all of the header and of the last chunk, and some of the first
    let places = (0..head + 32)
        .chain((head + 32..head + SEALED_CHUNK_BYTES).step_by(4999))
        .chain(head + SEALED_CHUNK_BYTES..whole.len());
    let mut tried = 0;
    for place in places {
        let mut altered = whole.clone();
        altered[place] ^= 1 << (place % 8);
        decrypted(&altered).await.expect_err("a flipped bit");
        tried += 1;
    }
    assert!(tried > 200, "{tried}");
}

#[tokio::test]
async fn a_wrong_data_key_leaves_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let input = from.path().join("f.sr");
    std::fs::write(&input, encrypted(b"text").await).unwrap();
    let other = async |_| Ok(OpenedDataKey { plaintext: SecretBytes::copy_from(&[8; 32]), ..opened() });
    let error = decrypt(&files(&input), &to.path().join("f"), other).await.unwrap_err();
    assert!(error.downcast_ref::<Error>().map(Error::advice).is_some_and(|advice| !advice.is_empty()));
    let refused = async |_| anyhow::bail!("the server refused");
    assert!(decrypt(&files(&input), &to.path().join("f"), refused).await.is_err());
    assert_eq!(names(to.path()), [""; 0]);
}

#[tokio::test]
async fn nothing_is_replaced_unless_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (clear, out) = (folder.path().join("f"), folder.path().join("f.sr"));
    std::fs::write(&clear, "text").unwrap();
    std::fs::write(&out, "precious").unwrap();
    let never = async || panic!("no data key is asked for when there is no place for the file");
    assert!(encrypt(&files(&clear), &out, never).await.unwrap_err().to_string().contains("--force"));
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    let forced = Files { force: true, ..files(&clear) };
    encrypt(&forced, &out, async || Ok(data_key())).await.unwrap();
    // one that fails leaves the old one, force or not
    std::fs::write(folder.path().join("cut.sr"), &std::fs::read(&out).unwrap()[..200]).unwrap();
    let cut = Files { force: true, ..files(&folder.path().join("cut.sr")) };
    assert!(decrypt(&cut, &clear, async |_| Ok(opened())).await.is_err());
    assert_eq!(std::fs::read(&clear).unwrap(), b"text");
    // in place
    let in_place = Files { force: true, ..files(&out) };
    decrypt(&in_place, &out, async |_| Ok(opened())).await.unwrap();
    assert_eq!(
        (std::fs::read(&out).unwrap(), names(folder.path())),
        (b"text".to_vec(), ["cut.sr", "f", "f.sr"].map(str::to_owned).to_vec())
    );
}

#[tokio::test]
async fn permission_bits_are_kept_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let clear = folder.path().join("f");
    std::fs::write(&clear, "text").unwrap();
    std::fs::set_permissions(&clear, std::fs::Permissions::from_mode(0o640)).unwrap();
    for (preserve_mode, mode) in [(false, 0o600), (true, 0o640)] {
        let out = folder.path().join(format!("{mode:o}.sr"));
        encrypt(&Files { preserve_mode, ..files(&clear) }, &out, async || Ok(data_key())).await.unwrap();
        assert_eq!(mode_of(&out), mode);
    }
}

#[tokio::test]
async fn plaintext_for_standard_output_is_held_and_bounded() {
    let mut held = Held::default();
    let chunk = vec![1; 1 << 20];
    for _ in 0..64 {
        held.write_all(&chunk).await.unwrap();
    }
    assert!(held.write_all(b"x").await.unwrap_err().to_string().contains("--out"));
    assert_eq!(held.bytes, HELD_BYTES_MAX);
}

#[test]
fn names_follow_from_the_input() {
    assert_eq!(encrypted_name(Path::new("a/f.tar")).unwrap(), Path::new("a/f.tar.sr"));
    assert_eq!(decrypted_name(Path::new("a/f.tar.sr")).unwrap(), Path::new("a/f.tar"));
    for input in ["-", "f.tar", ".sr"] {
        assert!(decrypted_name(Path::new(input)).is_err(), "{input}");
    }
    assert!(encrypted_name(Path::new("-")).is_err());
}
