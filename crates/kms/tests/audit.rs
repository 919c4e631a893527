//! The log: no result without a record, a second one when the boundary fails, one for a batch, and no secret in any.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use bytes::Bytes;
use envelope::SecretBytes;
use identity::RequestInfo;
use kms::{BATCH_ITEMS_MAX, DataKeyBytes, Decrypt, Encrypt, GenerateDataKey, KeyRef, KeySpec, KmsError, ReEncrypt};
use std::time::{Duration, Instant};

use rig::{Rig, context, create, data_key, id, told, unknown_id};

fn encrypt(key: &KeyRef, plaintext: &[u8]) -> Encrypt {
    Encrypt { key: key.clone(), plaintext: SecretBytes::copy_from(plaintext), context: context(&[]) }
}

#[tokio::test]
async fn a_record_says_who_did_what_to_which_key_from_where_by_which_rule() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let KeyRef::Id(key_id) = key else { unreachable!() };
    let policy = format!(r#"path "kms/keys/{key_id}/generate-data-key" {{ capabilities = ["update"] }}"#);
    let by = rig.principal("writers", &policy).await;
    let command = GenerateDataKey { context: context(&[("tenant", "blue")]), ..data_key(&key) };
    let thumbprint = "c5".repeat(32);
    let call = RequestInfo { certificate: Some(thumbprint.as_str().into()), ..rig.call() };
    let (made, records) = rig.recorded(rig.kms.generate_data_key(&by, &call, command.clone())).await;
    made.unwrap();
    let [record] = &records[..] else { panic!("{records:?}") };
    for (field, value) in [
        ("operation", "GenerateDataKey".to_owned()),
        ("request_id", call.request_id.clone()),
        ("path", format!("kms/keys/{key_id}/generate-data-key")),
        ("from", "192.0.2.7:4711".into()),
        ("decision", "allowed".into()),
        ("rule", "writers".into()),
        ("certificate", thumbprint),
        ("outcome", "asked".into()),
    ] {
        assert_eq!(record[field], value, "{field}");
    }
    assert_eq!(record["time"], call.now.unix_millis());
    assert_eq!(format!("token/{}", record["subject"]["accessor"].as_str().unwrap()), by.id());
    let context_hmac = record["context_hmac"].as_str().unwrap().to_owned();
    assert_eq!(context_hmac.len(), 64);
    // the same context gives the same hash, another one another, none none
    let (_, again) = rig.recorded(rig.kms.generate_data_key(&by, &call, command.clone())).await;
    let other = GenerateDataKey { context: context(&[("tenant", "red")]), ..command };
    let (_, other) = rig.recorded(rig.kms.generate_data_key(&by, &call, other)).await;
    let (_, none) = rig.recorded(rig.kms.generate_data_key(&by, &call, data_key(&key))).await;
    assert_eq!(again[0]["context_hmac"], context_hmac);
    assert_ne!(other[0]["context_hmac"], context_hmac);
    assert!(none[0].get("context_hmac").is_none());
}

/// The hash that a call of its own with these pairs has in its record.
async fn hash_of(rig: &Rig, key: &KeyRef, pairs: &[(&str, &str)]) -> serde_json::Value {
    let command = GenerateDataKey { context: context(pairs), ..data_key(key) };
    let (made, records) = rig.recorded(rig.kms.generate_data_key(&rig.root, &rig.call(), command)).await;
    made.unwrap();
    assert!(records[0]["context_hmac"].is_string());
    records[0]["context_hmac"].clone()
}

#[tokio::test]
async fn each_item_of_a_batch_is_told_with_its_own_context() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let (blue, red) =
        (hash_of(&rig, &key, &[("tenant", "blue")]).await, hash_of(&rig, &key, &[("tenant", "red")]).await);
    let item = |pairs| Ok(GenerateDataKey { context: context(pairs), ..data_key(&key) });
    let items = vec![
        item(&[("tenant", "blue")]),
        item(&[]),
        Err(KmsError::InvalidField("key_id")),
        item(&[("tenant", "red")]),
        Ok(GenerateDataKey { context: context(&[("tenant", "blue")]), ..data_key(&KeyRef::Id(unknown_id())) }),
    ];
    let (results, records) = rig.recorded(rig.kms.batch_generate_data_key(&rig.root, &rig.call(), items)).await;
    let results = results.unwrap();
    let hashes = |record: &serde_json::Value| -> Vec<_> {
        record["items"].as_array().unwrap().iter().map(|item| item["context_hmac"].clone()).collect()
    };
    let none = serde_json::Value::Null;
    assert_eq!(hashes(&records[0]), [blue.clone(), none.clone(), none.clone(), red.clone(), blue.clone()]);
    assert!(records[0].get("context_hmac").is_none(), "no item's context is the batch's");
    // what the boundary refuses is told with its context too
    let decrypt = |index: usize, pairs| {
        let ciphertext_blob = results[index].as_ref().unwrap().ciphertext_blob.clone();
        Ok(Decrypt { ciphertext_blob, context: context(pairs), key: None })
    };
    let items = vec![decrypt(0, &[("tenant", "blue")]), decrypt(1, &[]), decrypt(0, &[("tenant", "red")])];
    let (opened, records) = rig.recorded(rig.kms.batch_decrypt(&rig.root, &rig.call(), items)).await;
    assert_eq!(opened.unwrap().iter().map(told).collect::<Vec<_>>(), ["OK", "OK", "INVALID_CIPHERTEXT"]);
    assert_eq!((hashes(&records[0]), hashes(&records[1])), (vec![blue, none, red.clone()], vec![red]));
}

#[tokio::test]
async fn a_re_encryption_is_told_with_both_keys_and_both_contexts() {
    let rig = Rig::new().await;
    let (from, to) = (id(&rig.key(KeySpec::Aes256).await), id(&rig.key(KeySpec::Aes256).await));
    let (KeyRef::Id(from_id), KeyRef::Id(to_id)) = (&from, &to) else { unreachable!() };
    let (blue, red) = (hash_of(&rig, &to, &[("tenant", "blue")]).await, hash_of(&rig, &to, &[("tenant", "red")]).await);
    let ciphertext_blob = rig.encrypt(&from, b"text", &[("tenant", "blue")]).await;
    let command = |destination_key: &KeyRef| ReEncrypt {
        ciphertext_blob: ciphertext_blob.clone(),
        source_context: context(&[("tenant", "blue")]),
        source_key: None,
        destination_key: destination_key.clone(),
        destination_context: context(&[("tenant", "red")]),
    };
    let (moved, records) = rig.recorded(rig.kms.re_encrypt(&rig.root, &rig.call(), command(&to))).await;
    moved.unwrap();
    let record = &records[0];
    assert_eq!(
        (&record["path"], &record["context_hmac"]),
        (&format!("kms/keys/{from_id}/re-encrypt-from").into(), &blue)
    );
    for (index, key_id, context) in [(0, from_id, &blue), (1, to_id, &red)] {
        let item = &record["items"][index];
        assert_eq!((&item["key_id"], &item["context_hmac"]), (&key_id.to_string().into(), context), "{index}");
        assert_eq!(item["outcome"], "asked", "{index}");
    }
    // refused for its destination
    let policy = format!(r#"path "kms/keys/{from_id}/re-encrypt-from" {{ capabilities = ["update"] }}"#);
    let by = rig.principal("movers", &policy).await;
    let (moved, records) = rig.recorded(rig.kms.re_encrypt(&by, &rig.call(), command(&to))).await;
    assert_eq!(told(&moved), "PERMISSION_DENIED");
    let record = &records[0];
    assert_eq!((&record["path"], &record["context_hmac"]), (&format!("kms/keys/{to_id}/re-encrypt-to").into(), &red));
    assert_eq!(record["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&record["items"][0]["key_id"], &record["items"][0]["context_hmac"]),
        (&from_id.to_string().into(), &blue)
    );
    assert_eq!(record["items"][0]["outcome"]["failed"], "PERMISSION_DENIED", "nothing was asked");
    // the boundary fails: the second record names both again, and says so
    rig.stop_module();
    let (moved, records) = rig.recorded(rig.kms.re_encrypt(&rig.root, &rig.call(), command(&to))).await;
    assert_eq!(told(&moved), "BOUNDARY_UNAVAILABLE");
    let outcomes = |record: &serde_json::Value| -> Vec<_> {
        record["items"].as_array().unwrap().iter().map(|item| item["outcome"].clone()).collect()
    };
    let failed = serde_json::json!({"failed": "BOUNDARY_UNAVAILABLE"});
    assert_eq!(outcomes(&records[0]), ["asked", "asked"]);
    assert_eq!(outcomes(&records[1]), [failed.clone(), failed]);
}

#[tokio::test]
async fn what_a_refused_change_was_to_do_to_a_key_is_not_told_as_done() {
    let rig = Rig::new().await;
    let KeyRef::Id(target) = id(&rig.key(KeySpec::Aes256).await) else { unreachable!() };
    let alias = kms::AliasName::parse("alias/taken").unwrap();
    let command = kms::CreateAlias { alias, target };
    rig.kms.create_alias(&rig.root, &rig.call(), command.clone()).await.unwrap();
    let (again, records) = rig.recorded(rig.kms.create_alias(&rig.root, &rig.call(), command)).await;
    assert_eq!(told(&again), "ALIAS_EXISTS");
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record["items"][0]["key_id"], target.to_string());
    assert_eq!(record["items"][0]["outcome"]["failed"], "ALIAS_EXISTS");
}

#[tokio::test]
async fn a_boundary_that_fails_adds_a_second_record() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let blob = rig.encrypt(&key, b"text", &[("a", "b")]).await;
    let outcomes =
        |records: &[serde_json::Value]| records.iter().map(|record| record["outcome"].to_string()).collect::<Vec<_>>();
    let (opened, records) = rig.recorded(rig.decrypt(&rig.root, &blob, &[])).await;
    assert_eq!(told(&opened), "INVALID_CIPHERTEXT");
    assert_eq!(outcomes(&records), ["\"asked\"", r#"{"failed":"INVALID_CIPHERTEXT"}"#]);
    rig.stop_module();
    let (made, records) = rig.recorded(rig.data_key(&rig.root, &key)).await;
    assert_eq!(told(&made), "BOUNDARY_UNAVAILABLE");
    assert_eq!(outcomes(&records), ["\"asked\"", r#"{"failed":"BOUNDARY_UNAVAILABLE"}"#]);
    assert_eq!(records[0]["request_id"], records[1]["request_id"]);
    // what never reached the boundary has one, which tells how long it took
    let began = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
    let (call, command) = (RequestInfo { began, ..rig.call() }, data_key(&KeyRef::Id(unknown_id())));
    let (made, records) = rig.recorded(rig.kms.generate_data_key(&rig.root, &call, command)).await;
    assert_eq!(told(&made), "KEY_NOT_FOUND");
    let took = records[0]["latency_micros"].as_u64().unwrap();
    assert!((2_000_000..60_000_000).contains(&took), "{took}");
    assert!(records[0].get("certificate").is_none());
    assert_eq!(outcomes(&records), [r#"{"failed":"KEY_NOT_FOUND"}"#]);
}

#[tokio::test]
async fn a_key_that_is_being_made_is_in_the_log_although_its_caller_leaves() {
    let rig = Rig::new().await;
    let call = rig.call();
    let asked_before = rig.requests();
    let (_, records) = rig
        .recorded(async {
            let mut making = Box::pin(rig.kms.create_key(&rig.root, &call, create(KeySpec::Aes256)));
            // until the boundary has been asked for the key, then the caller is gone
            while rig.requests() < asked_before + 2 {
                assert!(futures_util::poll!(&mut making).is_pending());
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    let asked = records.iter().find(|record| record["operation"] == "CreateKey" && record["outcome"] == "asked");
    assert!(asked.is_some_and(|record| record["request_id"] == call.request_id), "{records:?}");
}

#[tokio::test]
async fn a_refused_item_of_a_batch_names_the_key_that_it_was_refused_for() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let KeyRef::Id(key_id) = &key else { unreachable!() };
    let nobody = rig.stranger("nobody").await;
    let items = vec![Ok(data_key(&key)), Ok(data_key(&KeyRef::Id(unknown_id())))];
    let (results, records) = rig.recorded(rig.kms.batch_generate_data_key(&nobody, &rig.call(), items)).await;
    assert!(results.unwrap().iter().all(|result| told(result) == "PERMISSION_DENIED"));
    assert_eq!(records[0]["items"][0]["key_id"], key_id.to_string());
    assert_eq!(records[0]["items"][1]["key_id"], unknown_id().to_string());
}

#[tokio::test]
async fn without_a_record_there_is_no_result() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let signing = id(&rig.key(KeySpec::EccNistP256).await);
    let blob = rig.encrypt(&key, b"text", &[]).await;
    let user = rig.stranger("user").await;
    let moved = rig.dir.path().join("moved.log");
    std::fs::rename(rig.log_path(), &moved).unwrap();
    let call = rig.call();
    let page = kms::PageRequest::default();
    for outcome in [
        told(&rig.data_key(&rig.root, &key).await),
        told(&rig.decrypt(&rig.root, &blob, &[]).await),
        told(&rig.kms.generate_random(&rig.root, &call, 16).await),
        told(&rig.kms.describe_key(&rig.root, &call, &key).await),
        told(&rig.kms.public_key(&rig.root, &call, &signing).await),
        told(&rig.kms.list_keys(&rig.root, &call, &page).await),
        told(&rig.kms.batch_encrypt(&rig.root, &call, vec![Ok(encrypt(&key, b"x"))]).await),
        // not even a refusal
        told(&rig.data_key(&user, &key).await),
        told(&rig.data_key(&rig.root, &KeyRef::Id(unknown_id())).await),
    ] {
        assert_eq!(outcome, "AUDIT_UNAVAILABLE");
    }
    assert_eq!(told(&rig.kms.create_key(&rig.root, &call, create(KeySpec::Aes256)).await), "AUDIT_UNAVAILABLE");
    std::fs::rename(&moved, rig.log_path()).unwrap();
    assert!(rig::soon(async || rig.data_key(&rig.root, &key).await.is_ok()).await, "it recovers in place");
}

#[tokio::test]
async fn a_batch_is_one_record_and_its_results_come_in_the_items_order() {
    let rig = Rig::new().await;
    let keys = [id(&rig.key(KeySpec::Aes256).await), id(&rig.key(KeySpec::Aes256).await)];
    let disabled = id(&rig.key(KeySpec::Aes256).await);
    rig.kms.disable_key(&rig.root, &rig.call(), &disabled).await.unwrap();
    let mac = id(&rig.key(KeySpec::Hmac256).await);
    let items = vec![
        Ok(data_key(&keys[0])),
        Ok(data_key(&keys[1])),
        Err(KmsError::InvalidField("key_id")),
        Ok(data_key(&keys[0])),
        Ok(data_key(&disabled)),
        Ok(data_key(&mac)),
        Ok(data_key(&KeyRef::Id(unknown_id()))),
        Ok(GenerateDataKey { length: DataKeyBytes::AES_128, ..data_key(&keys[1]) }),
    ];
    let (call, asked) = (rig.call(), rig.requests());
    let (results, records) = rig.recorded(rig.kms.batch_generate_data_key(&rig.root, &call, items)).await;
    let results = results.unwrap();
    let expected =
        ["OK", "OK", "INVALID_FIELD key_id", "OK", "KEY_DISABLED", "INVALID_KEY_USAGE", "KEY_NOT_FOUND", "OK"];
    assert_eq!(results.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(rig.requests() - asked, 2, "one request for each key");
    let [record] = &records[..] else { panic!("one record: {records:?}") };
    assert_eq!((&record["operation"], &record["outcome"]), (&"BatchGenerateDataKey".into(), &"asked".into()));
    let logged: Vec<_> = record["items"].as_array().unwrap().iter().map(|item| item["outcome"].to_string()).collect();
    let reasons = expected.map(|told| match told.split(' ').next().unwrap() {
        "OK" => "\"asked\"".to_owned(),
        reason => format!(r#"{{"failed":"{reason}"}}"#),
    });
    assert_eq!(logged, reasons);
    for (index, key) in [(0, &keys[0]), (1, &keys[1]), (3, &keys[0]), (7, &keys[1])] {
        let made = results[index].as_ref().unwrap();
        assert_eq!(KeyRef::Id(made.key_id), *key);
        assert_eq!(made.plaintext.len(), if index == 7 { 16 } else { 32 });
        assert_eq!(rig.decrypt(&rig.root, &made.ciphertext_blob, &[]).await.unwrap(), made.plaintext.expose());
    }
}

#[tokio::test]
async fn one_item_that_fails_inside_the_boundary_costs_no_other_its_result() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let good = rig.encrypt(&key, b"good", &[]).await;
    let bound = rig.encrypt(&key, b"bound", &[("a", "b")]).await;
    let decrypt = |blob: &Bytes| Ok(Decrypt { ciphertext_blob: blob.clone(), context: context(&[]), key: None });
    let call = rig.call();
    let items = vec![decrypt(&good), decrypt(&bound), decrypt(&Bytes::from_static(b"SR")), decrypt(&good)];
    let (results, records) = rig.recorded(rig.kms.batch_decrypt(&rig.root, &call, items)).await;
    let results = results.unwrap();
    let expected = ["OK", "INVALID_CIPHERTEXT", "INVALID_CIPHERTEXT", "OK"];
    assert_eq!(results.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(results[3].as_ref().unwrap().plaintext.expose(), b"good");
    let [first, second] = &records[..] else { panic!("{records:?}") };
    assert_eq!((&first["outcome"], first["items"].as_array().unwrap().len()), (&"asked".into(), 4));
    assert_eq!(second["items"].as_array().unwrap().len(), 1, "what the boundary refused");
    assert_eq!(second["items"][0]["index"], 1);
    rig.stop_module();
    let items = vec![decrypt(&good), decrypt(&good)];
    let results = rig.kms.batch_decrypt(&rig.root, &call, items).await.unwrap();
    assert!(results.iter().all(|result| told(result) == "BOUNDARY_UNAVAILABLE"));
}

#[tokio::test]
async fn a_batch_of_any_allowed_size_fits_its_frames() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let call = rig.call();
    for (count, outcome) in [(0, false), (1, true), (BATCH_ITEMS_MAX, true), (BATCH_ITEMS_MAX + 1, false)] {
        let length = DataKeyBytes::parse(1024).unwrap();
        let items = (0..count).map(|_| Ok(GenerateDataKey { length, ..data_key(&key) })).collect();
        let asked = rig.requests();
        let made = rig.kms.batch_generate_data_key(&rig.root, &call, items).await;
        if !outcome {
            assert_eq!(told(&made), "INVALID_FIELD items", "{count}");
            assert_eq!(rig.requests(), asked);
            continue;
        }
        let made = made.unwrap();
        assert!(made.len() == count && made.iter().all(Result::is_ok));
        // 128 × 2 KiB of reply does not fit one frame of 64 KiB; it fits few
        assert!((1..=6).contains(&(rig.requests() - asked)), "{}", rig.requests() - asked);
    }
    let plaintexts: Vec<_> = (0..BATCH_ITEMS_MAX).map(|i| vec![u8::try_from(i).unwrap(); 4096]).collect();
    let items = plaintexts.iter().map(|plaintext| Ok(encrypt(&key, plaintext))).collect();
    let sealed = rig.kms.batch_encrypt(&rig.root, &call, items).await.unwrap();
    let items = sealed.into_iter().map(|sealed| {
        Ok(Decrypt { ciphertext_blob: sealed.unwrap().ciphertext_blob, context: context(&[]), key: None })
    });
    let opened = rig.kms.batch_decrypt(&rig.root, &call, items.collect()).await.unwrap();
    for (opened, plaintext) in opened.iter().zip(&plaintexts) {
        assert_eq!(opened.as_ref().unwrap().plaintext.expose(), plaintext);
    }
}

#[tokio::test]
async fn every_item_of_a_batch_is_authorised_by_itself() {
    let rig = Rig::new().await;
    let keys = [id(&rig.key(KeySpec::Aes256).await), id(&rig.key(KeySpec::Aes256).await)];
    let KeyRef::Id(own) = keys[0] else { unreachable!() };
    let policy = format!(r#"path "kms/keys/{own}/encrypt" {{ capabilities = ["update"] }}"#);
    let user = rig.principal("user", &policy).await;
    let stranger = rig.stranger("stranger").await;
    let items = || keys.iter().map(|key| Ok(encrypt(key, b"x"))).collect();
    let call = rig.call();
    let (results, records) = rig.recorded(rig.kms.batch_encrypt(&user, &call, items())).await;
    assert_eq!(results.unwrap().iter().map(told).collect::<Vec<_>>(), ["OK", "PERMISSION_DENIED"]);
    assert_eq!((records.len(), &records[0]["decision"]), (1, &"allowed".into()));
    let asked = rig.requests();
    let (results, records) = rig.recorded(rig.kms.batch_encrypt(&stranger, &call, items())).await;
    assert_eq!(results.unwrap().iter().map(told).collect::<Vec<_>>(), ["PERMISSION_DENIED"; 2]);
    assert_eq!((records.len(), &records[0]["decision"]), (1, &"denied".into()));
    assert_eq!(rig.requests(), asked, "the boundary is not asked");
}

#[tokio::test]
async fn no_secret_stands_in_the_log_or_in_the_store() {
    let rig = Rig::new().await;
    let key = id(&rig.key(KeySpec::Aes256).await);
    let mac = id(&rig.key(KeySpec::Hmac256).await);
    let plaintext = b"a plaintext that nobody else may read";
    let pairs = [("patient", "Erika Mustermann")];
    let mut secrets = vec![plaintext.to_vec(), b"Mustermann".to_vec()];
    let blob = rig.encrypt(&key, plaintext, &pairs).await;
    rig.decrypt(&rig.root, &blob, &pairs).await.unwrap();
    rig.decrypt(&rig.root, &blob, &[]).await.unwrap_err();
    for _ in 0..4 {
        secrets.push(rig.data_key(&rig.root, &key).await.unwrap().plaintext.expose().to_vec());
    }
    let call = rig.call();
    secrets.push(rig.kms.generate_random(&rig.root, &call, 32).await.unwrap().expose().to_vec());
    let message = SecretBytes::copy_from(b"a message to authenticate");
    secrets.push(message.expose().to_vec());
    let algorithm = kms::MacAlgorithm::HmacSha256;
    rig.kms.generate_mac(&rig.root, &call, kms::GenerateMac { key: mac, message, algorithm }).await.unwrap();
    let alias = kms::AliasName::parse("alias/secret-project").unwrap();
    let KeyRef::Id(target) = key else { unreachable!() };
    rig.kms.create_alias(&rig.root, &call, kms::CreateAlias { alias, target }).await.unwrap();

    let log = rig.log();
    assert!(rig.records().len() > 10);
    let mut stored = Vec::new();
    let prefix = storage::EntryPath::parse(&"7e".repeat(16)).unwrap();
    for (path, entry) in rig.store.scan(&prefix, None, 1000, storage::AtLeast::Latest).await.unwrap().entries {
        stored.extend_from_slice(path.as_str().as_bytes());
        stored.extend_from_slice(&entry.value);
    }
    for secret in &secrets {
        let text = hex::encode(secret);
        for (place, bytes) in [("log", &log), ("store", &stored)] {
            let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!holds(secret) && !holds(text.as_bytes()), "{place}");
        }
    }
    // names that users choose stand in the store as keyed hashes only
    assert!(!stored.windows(14).any(|window| window == b"secret-project"));
}
