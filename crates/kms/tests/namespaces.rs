//! Keys of one namespace are nothing to another one, from memory neither.

mod rig;

use hsm_api::KeySpec;
use kms::{KeyRef, KmsError};
use rig::{Rig, create};
use storage::EntryPath;

#[tokio::test]
async fn a_key_of_one_namespace_is_unknown_to_another_and_to_the_root() {
    let rig = Rig::new().await;
    let part = |n: u8| EntryPath::parse(&format!("{}/ns/{}", hex::encode(rig::TENANT), hex::encode([n; 16]))).unwrap();
    let namespaces = [
        rig.kms.clone(),
        rig.kms.in_namespace(&part(1), [1; 16]).unwrap(),
        rig.kms.in_namespace(&part(2), [2; 16]).unwrap(),
    ];
    let mut keys = Vec::new();
    for kms in &namespaces {
        let made = kms.create_key(&rig.root, &rig.call(), create(KeySpec::Aes256)).await.unwrap();
        let key = KeyRef::parse(&made.key_id.to_string()).unwrap();
        // twice: the second time from memory
        for _ in 0..2 {
            kms.describe_key(&rig.root, &rig.call(), &key).await.unwrap();
        }
        keys.push((key, made));
    }
    for (at, kms) in namespaces.iter().enumerate() {
        for (of, (key, _)) in keys.iter().enumerate() {
            let found = kms.describe_key(&rig.root, &rig.call(), key).await;
            assert_eq!(found.is_ok(), at == of, "{at} {of}");
            let found = kms.generate_data_key(&rig.root, &rig.call(), rig::data_key(key)).await;
            match found {
                Ok(_) => assert_eq!(at, of),
                Err(error) => assert!(at != of && matches!(error, KmsError::KeyNotFound), "{at} {of} {error}"),
            }
        }
    }
}
