use super::*;
use prop::collection::vec;
use proptest::option;
use proptest::prelude::*;
use protox::prost_reflect::{self, DescriptorPool, DynamicMessage, Kind};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// Owns what a record borrows.
#[derive(Debug, Clone)]
struct Told {
    time: u64,
    texts: [String; 10],
    subject: Subject,
    decision: Decision,
    outcome: Outcome,
    context_hmac: Option<String>,
    changes: Vec<(String, String)>,
    items: Vec<Item>,
    latency_micros: Option<u64>,
    store: Option<StoreState>,
    committed: Option<StoreState>,
}

impl Told {
    fn record(&self) -> Record<'_> {
        let [request_id, operation, path, from, rule, entity, certificate, node, namespace, proof] = &self.texts;
        Record {
            time: self.time,
            request_id,
            operation,
            subject: &self.subject,
            path,
            from,
            decision: self.decision,
            rule,
            outcome: self.outcome.clone(),
            context_hmac: self.context_hmac.as_deref(),
            changes: &self.changes,
            items: &self.items,
            entity,
            certificate,
            node,
            latency_micros: self.latency_micros,
            store: self.store,
            namespace,
            proof,
            committed: self.committed,
        }
    }
}

fn full() -> Told {
    let texts = [
        "00112233445566778899aabbccddeeff",
        "BatchDecrypt",
        "kms/keys/0",
        "192.0.2.1:5",
        "policy/x",
        "e1",
        "c0ffee",
        "node-1",
        "a/b/",
        "jwt issuer=x",
    ];
    Told {
        time: 1_795_000_000_123,
        texts: texts.map(str::to_owned),
        subject: Subject::Token { accessor: "ac".repeat(16), name: "alice".into() },
        decision: Decision::Allowed,
        outcome: Outcome::Failed("KEY_DISABLED".into()),
        context_hmac: Some("c7".repeat(32)),
        changes: vec![("5a".repeat(32), "deleted".into()), ("5b".repeat(32), "5c".repeat(32))],
        items: vec![
            Item {
                index: 0,
                key_id: Some("00112233-4455-6677-8899-aabbccddeeff".into()),
                outcome: Outcome::Asked,
                context_hmac: Some("d7".repeat(32)),
            },
            Item { index: 300, key_id: None, outcome: Outcome::Failed("KEY_DISABLED".into()), context_hmac: None },
        ],
        latency_micros: Some(1234),
        store: Some(StoreState { revision: 77, generation: 3 }),
        committed: None,
    }
}

/// What the server logs for one GenerateDataKey.
fn usual() -> Told {
    Told {
        texts: [
            "00112233445566778899aabbccddeeff",
            "GenerateDataKey",
            "kms/keys/00112233-4455-6677-8899-aabbccddeeff/generate-data-key",
            "192.0.2.1:54321",
            "bench",
            "",
            "",
            "",
            "",
            "",
        ]
        .map(str::to_owned),
        outcome: Outcome::Asked,
        changes: Vec::new(),
        items: Vec::new(),
        latency_micros: None,
        store: None,
        ..full()
    }
}

fn entry_of(record: &Record<'_>) -> Vec<u8> {
    finish(&record.encode(), None).unwrap()
}

/// As an encoder of bad faith would: its own body, a right checksum.
fn with_checksum(body: &[u8]) -> Vec<u8> {
    let mut out = body.to_vec();
    wire::checksum(&mut out, 100);
    out
}

fn november() -> PeriodKey {
    PeriodKey::generate(Period::of(Timestamp::from_unix_millis(full().time))).unwrap()
}

#[test]
fn an_entry_has_these_bytes() {
    let subject = Subject::System;
    let least = Record::new(Timestamp::default(), "", "", &subject);
    assert_eq!(hex::encode(entry_of(&least)), GOLDEN_LEAST);
    let told = full();
    // as it was before logins told what proved them
    assert_eq!(hex::encode(entry_of(&Record { proof: "", ..told.record() })), GOLDEN_FULL.concat());
    let proof = format!("1a0c{}", hex::encode("jwt issuer=x"));
    assert!(hex::encode(entry_of(&told.record())).contains(&proof));
    // of the root, as it was before there were namespaces
    let roots = GOLDEN_FULL.concat().replace("d20104612f622f", "").replace("a506e3bee06f", "a50699730397");
    assert_eq!(hex::encode(entry_of(&Record { namespace: "", proof: "", ..told.record() })), roots);
}

#[test]
fn a_draft_that_is_told_its_commit_later_is_that_of_a_record_that_knew_it() {
    let at = StoreState { revision: 1 << 40, generation: 300 };
    for told in [full(), Told { subject: Subject::System, texts: Default::default(), ..full() }] {
        let with = Record { committed: Some(at), ..told.record() }.encode();
        assert_eq!(committed(&told.record().encode(), at), with);
        assert_eq!(committed(&with, StoreState { revision: 1, generation: 1 }), with, "once");
        let entry = Entry::decode(&finish(&with, Some(&november())).unwrap()).unwrap();
        assert_eq!(entry.record().committed, Some(at));
    }
    for malformed in [&b""[..], b"\xff", b"\0\0", b"\0\x09a"] {
        assert_eq!(committed(malformed, at), malformed);
    }
}

#[test]
fn a_record_is_one_line_that_leaves_out_what_is_not_known() {
    let subject = Subject::Token { accessor: "ac".into(), name: "root".into() };
    let mut record = Record::new(Timestamp::from_unix_millis(7), "r-1", "Decrypt", &subject);
    assert_eq!(
        record.json(),
        "{\"time\":7,\"request_id\":\"r-1\",\"operation\":\"Decrypt\",\
         \"subject\":{\"type\":\"token\",\"accessor\":\"ac\",\"name\":\"root\"},\
         \"decision\":\"not_reached\",\"outcome\":\"done\"}\n"
    );
    let items = [Item {
        index: 3,
        key_id: None,
        outcome: Outcome::Failed("KEY_DISABLED".into()),
        context_hmac: Some("dd".into()),
    }];
    let changes = [("aa".to_owned(), "bb".to_owned())];
    record.path = "kms/keys/k/decrypt";
    record.from = "192.0.2.1:5";
    record.decision = Decision::Allowed;
    record.rule = "policy/x";
    record.outcome = Outcome::Asked;
    record.context_hmac = Some("cc");
    record.changes = &changes;
    record.items = &items;
    let line = "{\"time\":7,\"request_id\":\"r-1\",\"operation\":\"Decrypt\",\
         \"subject\":{\"type\":\"token\",\"accessor\":\"ac\",\"name\":\"root\"},\
         \"path\":\"kms/keys/k/decrypt\",\"from\":\"192.0.2.1:5\",\"decision\":\"allowed\",\"rule\":\"policy/x\",\
         \"outcome\":\"asked\",\"context_hmac\":\"cc\",\"changes\":[[\"aa\",\"bb\"]],\
         \"items\":[{\"index\":3,\"outcome\":{\"failed\":\"KEY_DISABLED\"},\"context_hmac\":\"dd\"}]}\n";
    assert_eq!(record.json(), line);
    assert_eq!(Entry::decode(&entry_of(&record)).unwrap().to_json(None), line);
}

#[test]
fn no_text_breaks_out_of_its_line() {
    let subject = Subject::Certificate { thumbprint: "t\n".into(), name: "\"}\n{\"\0\u{2028}\u{7f}".into() };
    let record = Record::new(Timestamp::default(), "a\r\nb", "\u{1b}[2J", &subject);
    for line in [record.json().to_vec(), Entry::decode(&entry_of(&record)).unwrap().to_json(None).into()] {
        let breaks = line.iter().filter(|byte| **byte < b' ').count();
        assert_eq!((breaks, line.last()), (1, Some(&b'\n')));
        assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let told = full();
    let key = november();
    for key in [None, Some(&key)] {
        let entry = finish(&told.record().encode(), key).unwrap();
        assert!(is_entry(&entry) && Entry::decode(&entry).is_ok());
        for bit in 0..entry.len() * 8 {
            let mut altered = entry.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_entry(&altered) && Entry::decode(&altered).is_err(), "bit {bit}");
        }
        for len in 0..entry.len() {
            for part in [&entry[..len], &entry[entry.len() - len..]] {
                assert!(Entry::decode(part).is_err(), "{len} bytes");
            }
            assert!(!is_entry(&entry[..len]), "{len} bytes");
        }
        assert!(!is_entry(&[&entry[..], &[0]].concat()));
        assert!(!is_entry(&vec![0; entry.len()]));
    }
}

#[test]
fn an_encoding_that_is_not_the_canonical_one_is_refused_whatever_its_checksum() {
    // operation "x", SYSTEM, NOT_REACHED, DONE
    assert!(Entry::decode(&with_checksum(b"\x22\x01x\x28\x04\x58\x03\x68\x02")).is_ok());
    for (body, expected, what) in [
        (&b""[..], Malformed::Field, "nothing"),
        (b"\x58\x03\x68\x02", Malformed::Field, "no subject"),
        (b"\x28\x04\x68\x02", Malformed::Field, "no decision"),
        (b"\x28\x04\x58\x03", Malformed::Field, "no outcome"),
        (b"\x28\x05\x58\x03\x68\x02", Malformed::Field, "an unknown subject"),
        (b"\x28\x00\x58\x03\x68\x02", Malformed::Field, "the subject's default"),
        (b"\x28\x04\x58\x04\x68\x02", Malformed::Field, "an unknown decision"),
        (b"\x28\x04\x58\x03\x68\x04", Malformed::Field, "an unknown outcome"),
        (b"\x58\x03\x28\x04\x68\x02", Malformed::NotCanonical, "another order"),
        (b"\x28\x04\x28\x04\x58\x03\x68\x02", Malformed::NotCanonical, "a field twice"),
        (b"\x08\x00\x28\x04\x58\x03\x68\x02", Malformed::NotCanonical, "a default that is told"),
        (b"\x22\x00\x28\x04\x58\x03\x68\x02", Malformed::NotCanonical, "an empty text that is told"),
        (b"\x28\x84\x00\x58\x03\x68\x02", Malformed::NotCanonical, "a number of more bytes than it needs"),
        (b"\xa8\x00\x04\x58\x03\x68\x02", Malformed::NotCanonical, "a tag of more bytes than it needs"),
        (b"\x1a\x02ab\x28\x04\x58\x03\x68\x02", Malformed::NotCanonical, "hexadecimal as text"),
        (b"\x12\x01\xab\x1a\x01x\x28\x04\x58\x03\x68\x02", Malformed::NotCanonical, "both forms of an identifier"),
        (b"\x28\x04\x32\x01\xab\x58\x03\x68\x02", Malformed::NotCanonical, "an accessor of the system"),
        (b"\x28\x04\x58\x03\x68\x02\x72\x01x", Malformed::NotCanonical, "a reason for what was done"),
        (b"\x28\x04\x58\x03\x68\x02\xd2\x05\x03\x0a\x01x", Malformed::NotCanonical, "a name of the system"),
        (b"\x28\x04\x58\x03\x68\x02\xd2\x05\x00", Malformed::NotCanonical, "an empty personal part"),
        (b"\x28\x04\x58\x03\x68\x02\xd2\x05\x04\x12\x02\xc3\x28", Malformed::Field, "bad UTF-8"),
        (b"\x22\x02\xc3\x28\x28\x04\x58\x03\x68\x02", Malformed::Field, "bad UTF-8"),
        (b"\x28\x04\x58\x03\x68\x02\xd0\x01\x01", Malformed::Field, "an unknown field"),
        (b"\x28\x04\x58\x03\x68\x02\xda\x05\x12\x0a\x10kkkkkkkkkkkkkkkk", Malformed::Field, "sealed nothing"),
        (b"\x20\x01\x28\x04\x58\x03\x68\x02", Malformed::Field, "a text of another type"),
        (b"\x28\x04\x58\x03\x68\x02\x92\x01\x05\x12\x01x\x20\x02", Malformed::Field, "a key id of one byte"),
        (
            b"\x28\x04\x58\x03\x68\x02\x92\x01\x09\x08\x80\x80\x80\x80\x10\x20\x02",
            Malformed::Field,
            "an index beyond u32",
        ),
    ] {
        assert_eq!(Entry::decode(&with_checksum(body)), Err(expected), "{what}");
    }
    let entry = entry_of(&full().record());
    assert_eq!(Entry::decode(&with_checksum(&entry)), Err(Malformed::Field), "two checksums");
    assert_eq!(Entry::decode(&vec![0; ENTRY_BYTES_MAX + 1]), Err(Malformed::Length));
    assert_eq!(Entry::decode(b""), Err(Malformed::Length));
}

#[test]
fn what_is_no_draft_makes_no_entry() {
    for draft in [&b""[..], b"\0", b"\0\0", b"\0\0\x0a\x01x", b"\0\x02\x08", b"{\"time\":7}\n", b"{\"t"] {
        assert!(finish(draft, None).is_err(), "{draft:?}");
    }
}

#[test]
fn a_line_that_an_outbox_still_holds_becomes_the_same_entry() {
    for told in [full(), usual()] {
        let record = told.record();
        assert_eq!(finish(&record.json(), None), finish(&record.encode(), None));
    }
    // no draft is taken for a line
    let path = "x".repeat(usize::from(u16::from_be_bytes(*b"{\"")) - 10);
    let draft = Record { path: &path, ..Record::new(Timestamp::default(), "", "", &Subject::System) };
    let draft = draft.encode();
    assert!(draft.starts_with(b"{\"") && finish(&draft, None).is_ok(), "{:?}", &draft[..4]);
}

#[test]
fn a_record_fits_its_entry_or_has_no_draft() {
    let mut told = full();
    let spare = DRAFT_BYTES_MAX - told.record().encode().len();
    told.texts[2].push_str(&"x".repeat(spare - 2));
    assert_eq!(told.record().encode().len(), DRAFT_BYTES_MAX, "two bytes more for the path's length");
    for key in [None, Some(&november())] {
        let entry = finish(&told.record().encode(), key).unwrap();
        assert!(entry.len() <= ENTRY_BYTES_MAX && Entry::decode(&entry).is_ok());
    }
    told.texts[2].push('x');
    assert_eq!(told.record().encode(), "");
    told.texts[2] = "x".repeat(1 << 20);
    assert_eq!(finish(&told.record().encode(), None), Err(Malformed::Length));
}

/// By the schema's names; bytes in hexadecimal.
fn shown(message: &DynamicMessage) -> serde_json::Value {
    use prost_reflect::Value;
    fn one(kind: &Kind, value: &Value) -> serde_json::Value {
        match (kind, value) {
            (Kind::Enum(names), Value::EnumNumber(number)) => names.get_value(*number).unwrap().name().into(),
            (_, Value::Bytes(bytes)) => hex::encode(bytes).into(),
            (_, Value::String(text)) => text.as_str().into(),
            (_, Value::U32(number)) => (*number).into(),
            (_, Value::U64(number)) => (*number).into(),
            (_, Value::Message(message)) => shown(message),
            (_, Value::List(values)) => values.iter().map(|value| one(kind, value)).collect(),
            (kind, value) => unreachable!("{kind:?} {value:?}"),
        }
    }
    let fields = message.fields().map(|(field, value)| (field.name().to_owned(), one(&field.kind(), value)));
    serde_json::Value::Object(fields.collect())
}

fn note_fields(message: &DynamicMessage, names: &mut BTreeSet<String>) {
    use prost_reflect::Value;
    for (field, value) in message.fields() {
        names.insert(field.full_name().to_owned());
        let inner = value.as_list().unwrap_or(std::slice::from_ref(value)).iter();
        inner.filter_map(Value::as_message).for_each(|inner| note_fields(inner, names));
    }
}

#[test]
fn the_schema_reads_every_field_that_the_encoder_writes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = protox::compile(["strongroom/audit/v1/record.proto"], [root]).unwrap();
    let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
    let schema = pool.get_message_by_name("strongroom.audit.v1.Record").unwrap();
    let mut told_fields = BTreeSet::new();
    let mut decoded = |record: &Record<'_>, key: Option<&PeriodKey>| {
        let entry = finish(&record.encode(), key).unwrap();
        let message = DynamicMessage::decode(schema.clone(), &entry[..]).unwrap();
        assert_eq!(message.unknown_fields().count(), 0);
        note_fields(&message, &mut told_fields);
        let encoded = protox::prost::Message::encode_to_vec(&message);
        assert_eq!(encoded, entry, "protobuf's own encoder writes the same");
        shown(&message)
    };
    let mut told = full();
    told.committed = Some(StoreState { revision: 78, generation: 3 });
    let mut json = decoded(&told.record(), None);
    assert!(json["crc32"].take().is_u64());
    let expected = json!({
        "time": told.time, "request_id": told.texts[0], "operation": "BatchDecrypt", "subject": "SUBJECT_TOKEN",
        "accessor": "ac".repeat(16), "path": "kms/keys/0", "decision": "DECISION_ALLOWED", "rule": "policy/x",
        "outcome": "OUTCOME_FAILED", "reason": "KEY_DISABLED", "context_hmac": "c7".repeat(32),
        "changes": [
            { "path_hmac": "5a".repeat(32), "value_sha256_text": "deleted" },
            { "path_hmac": "5b".repeat(32), "value_sha256": "5c".repeat(32) },
        ],
        "items": [
            {
                "key_id": "00112233445566778899aabbccddeeff", "outcome": "OUTCOME_ASKED",
                "context_hmac": "d7".repeat(32),
            },
            { "index": 300, "outcome": "OUTCOME_FAILED", "reason": "KEY_DISABLED" },
        ],
        "entity": "e1", "certificate": "c0ffee", "node": "node-1", "latency_micros": 1234,
        "store": { "revision": 77, "generation": 3 }, "namespace": "a/b/", "committed": { "revision": 78, "generation": 3 }, "personal": { "name": "alice", "from": "192.0.2.1:5", "proof": "jwt issuer=x" },
        "crc32": null,
    });
    assert_eq!(json, expected);

    let key = november();
    for counter in 0..2 {
        let sealed = decoded(&told.record(), Some(&key))["sealed"].clone();
        assert_eq!(sealed["key_id"], hex::encode(key.id()));
        assert_eq!(sealed["counter"].as_u64().unwrap_or_default(), counter);
    }
    told.texts = std::array::from_fn(|i| format!("text {i}"));
    told.context_hmac = Some(String::new());
    told.changes = vec![("a path".into(), String::new())];
    told.items =
        vec![Item { index: 1, key_id: Some("a key".into()), outcome: Outcome::Done, context_hmac: Some("?".into()) }];
    for (subject, expected) in [
        (Subject::Token { accessor: "an accessor".into(), name: String::new() }, "SUBJECT_TOKEN"),
        (Subject::Certificate { thumbprint: "c0ffee".into(), name: "web".into() }, "SUBJECT_CERTIFICATE"),
        (Subject::Certificate { thumbprint: "a thumbprint".into(), name: "web".into() }, "SUBJECT_CERTIFICATE"),
        (Subject::Unauthenticated, "SUBJECT_UNAUTHENTICATED"),
        (Subject::System, "SUBJECT_SYSTEM"),
    ] {
        told.subject = subject;
        let json = decoded(&told.record(), None);
        assert_eq!(json["subject"], expected);
        assert_eq!([&json["request_id_text"], &json["context_hmac_text"]], ["text 0", ""]);
        assert_eq!(json["changes"], json!([{ "path_hmac_text": "a path" }]));
        let item = json!({ "index": 1, "key_id_text": "a key", "outcome": "OUTCOME_DONE", "context_hmac_text": "?" });
        assert_eq!(json["items"], json!([item]));
    }
    for decision in [Decision::Denied, Decision::NotReached] {
        told.decision = decision;
        assert!(decoded(&told.record(), None)["decision"].is_string());
    }
    let all = pool.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
    let all: BTreeSet<String> = all.map(|field| field.full_name().to_owned()).collect();
    assert_eq!(told_fields, all, "the schema has no field that nobody writes");
}

#[test]
fn personal_fields_are_read_with_their_key_alone_and_the_leaf_does_not_need_it() {
    let (auditor, stranger) = (AuditorSecret::generate().unwrap(), AuditorSecret::generate().unwrap());
    let (told, key) = (full(), november());
    let copy = key.sealed_to(&auditor.public().unwrap()).unwrap();
    let bytes = finish(&told.record().encode(), Some(&key)).unwrap();
    let leaf = envelope::merkle::leaf_hash(&bytes);
    for personal in [&b"alice"[..], b"192.0.2.1"] {
        assert!(!bytes.windows(personal.len()).any(|part| part == personal));
        assert!(told.record().encode().windows(personal.len()).any(|part| part == personal));
    }

    let mut keys = PeriodKeys::default();
    let closed = Entry::decode(&bytes).unwrap();
    assert_eq!(closed.sealed().unwrap().key_id(), copy.key_id());
    assert_eq!(closed.clone().open(&keys), Err(NotOpened::NoKey));
    let json: serde_json::Value = serde_json::from_str(&closed.to_json(Some(&keys))).unwrap();
    assert_eq!([&json["subject"]["name"], &json["path"]], ["", "kms/keys/0"]);
    assert_eq!(json["sealed"], json!({ "key_id": hex::encode(key.id()), "counter": 0 }));
    assert_eq!(json.get("from"), None);
    assert_eq!(closed.to_json(None), closed.to_json(Some(&keys)));
    assert_eq!(stranger.open(&copy).err(), Some(Rejected));

    keys.insert(auditor.open(&copy).unwrap());
    let mut open = closed.clone();
    assert_eq!(open.open(&keys), Ok(()));
    assert_eq!(open.record(), told.record());
    assert_eq!(closed.to_json(Some(&keys)).as_bytes(), told.record().json());
    for entry in [&closed, &open] {
        assert_eq!(envelope::merkle::leaf_hash(&entry.encode()), leaf);
    }
}

#[test]
fn a_sealed_part_belongs_to_its_public_part() {
    let auditor = AuditorSecret::generate().unwrap();
    let (told, key) = (full(), november());
    let mut keys = PeriodKeys::default();
    keys.insert(auditor.open(&key.sealed_to(&auditor.public().unwrap()).unwrap()).unwrap());
    let bytes = finish(&told.record().encode(), Some(&key)).unwrap();
    for (from, to) in [(&b"policy/x"[..], &b"policy/y"[..]), (b"node-1", b"node-2")] {
        let at = bytes.windows(from.len()).position(|part| part == from).unwrap();
        let mut body = bytes[..bytes.len() - 6].to_vec();
        body[at..at + to.len()].copy_from_slice(to);
        let mut moved = Entry::decode(&with_checksum(&body)).unwrap();
        assert_eq!(moved.open(&keys), Err(NotOpened::Rejected));
        let json: serde_json::Value = serde_json::from_str(&moved.to_json(Some(&keys))).unwrap();
        assert_eq!([&json["sealed"]["rejected"], &json["subject"]["name"]], [&true.into(), &json!("")]);
    }
    let own = Entry::decode(&bytes).unwrap().to_json(Some(&keys));
    assert_eq!(own.as_bytes(), told.record().json());
}

#[test]
fn an_entry_without_personal_fields_has_nothing_sealed() {
    let record = Record::new(Timestamp::from_unix_millis(1), "", "Seal", &Subject::System);
    assert_eq!(finish(&record.encode(), Some(&november())), finish(&record.encode(), None));
}

fn an_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Asked),
        Just(Outcome::Done),
        "[A-Z_]{0,20}".prop_map(|reason| Outcome::Failed(reason.into())),
    ]
}

/// Identifiers of all kinds, and what nearly is one.
fn a_text() -> impl Strategy<Value = String> {
    let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    prop_oneof!["", "[0-9a-f]{1,64}", "[0-9a-fA-F]{2}", uuid, "[a-z/-]{1,200}", any::<String>()]
}

fn a_record() -> impl Strategy<Value = Told> {
    let subject = prop_oneof![
        (a_text(), a_text()).prop_map(|(accessor, name)| Subject::Token { accessor, name }),
        (a_text(), a_text()).prop_map(|(thumbprint, name)| Subject::Certificate { thumbprint, name }),
        Just(Subject::Unauthenticated),
        Just(Subject::System),
    ];
    let decision = prop_oneof![Just(Decision::Allowed), Just(Decision::Denied), Just(Decision::NotReached)];
    let item = (any::<u32>(), option::of(a_text()), an_outcome(), option::of(a_text()));
    let item = item.prop_map(|(index, key_id, outcome, context_hmac)| Item { index, key_id, outcome, context_hmac });
    let store = (any::<u64>(), any::<u64>());
    let store = option::of(store.prop_map(|(revision, generation)| StoreState { revision, generation }));
    let texts: [_; 10] = std::array::from_fn(|_| a_text());
    let lists = (vec((a_text(), a_text()), 0..4), vec(item, 0..4));
    let rest = (option::of(a_text()), lists, option::of(any::<u64>()), store);
    (any::<u64>(), texts, subject, decision, an_outcome(), rest).prop_map(
        |(time, texts, subject, decision, outcome, (context_hmac, (changes, items), latency_micros, store))| Told {
            time,
            texts,
            subject,
            decision,
            outcome,
            context_hmac,
            changes,
            items,
            latency_micros,
            store,
            committed: store.filter(|store| store.revision % 2 == 0),
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(told in a_record()) {
        let record = told.record();
        let bytes = entry_of(&record);
        let entry = Entry::decode(&bytes).unwrap();
        prop_assert_eq!(entry.record(), record.clone());
        prop_assert_eq!(entry.encode(), bytes.clone());
        prop_assert_eq!(entry.to_json(None).into_bytes(), record.json());
        prop_assert_eq!(finish(&record.json(), None).unwrap(), bytes);
    }

    #[test]
    fn what_is_read_of_altered_bytes_is_canonical(
        told in a_record(),
        alterations in vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
    ) {
        let bytes = entry_of(&told.record());
        let mut body = bytes[..bytes.len() - 6].to_vec();
        alterations.iter().for_each(|(at, byte)| *at.get_mut(&mut body) = *byte);
        let altered = with_checksum(&body);
        if let Ok(entry) = Entry::decode(&altered) {
            prop_assert_eq!(entry_of(&entry.record()), altered);
        }
    }
}

const GOLDEN_LEAST: &str = "280458036802a506af9968e0";

/// A field a line.
const GOLDEN_FULL: [&str; 23] = [
    "08fbbcd9f29e34",
    "121000112233445566778899aabbccddeeff",
    "220c426174636844656372797074",
    "2801",
    "3210acacacacacacacacacacacacacacacac",
    "520a6b6d732f6b6579732f30",
    "5801",
    "6208706f6c6963792f78",
    "6803",
    "720c4b45595f44495341424c4544",
    "7a20c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7c7",
    "8a012b0a205a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a220764656c65746564",
    "8a01440a205b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b1a205c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c",
    "920136121000112233445566778899aabbccddeeff20013220d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7",
    "92011308ac0220032a0c4b45595f44495341424c4544",
    "9a0101e1",
    "aa0103c0ffee",
    "ba01066e6f64652d31",
    "c001d209",
    "ca0104084d1003",
    "d20104612f622f",
    "d205140a05616c696365120b3139322e302e322e313a35",
    "a506e3bee06f",
];
