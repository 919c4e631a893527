use super::super::arn::Told;
use super::*;

const ROLE_ID: &str = "AROAEXAMPLE123456789";

fn caller(account: &str, name: &str, id: &str, session: &str) -> Caller {
    let arn = format!("arn:aws:sts::{account}:assumed-role/{name}/{session}");
    Caller::recognise(&Told { account: account.into(), arn, user_id: format!("{id}:{session}") }).unwrap()
}

fn role(arns: &[&str], ids: &[&str], accounts: &[&str], sessions: &[&str]) -> Role {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Role {
        bound_iam_principal_arn: owned(arns),
        bound_iam_principal_id: owned(ids),
        bound_account_id: owned(accounts),
        bound_session_names: owned(sessions),
        ..Role::default()
    }
}

#[test]
fn all_that_a_role_is_bound_to_must_hold() {
    let web = "arn:aws:iam::111122223333:role/web";
    let mine = caller("111122223333", "web", ROLE_ID, "i-0123456789abcdef0");
    let other = caller("444455556666", "web", ROLE_ID, "i-0123456789abcdef0");
    for (arns, ids, accounts, sessions, of_mine, of_other) in [
        (&[web][..], &[][..], &[][..], &[][..], Ok(()), Err(PRINCIPAL_UNBOUND)),
        (&[], &[ROLE_ID], &[], &[], Ok(()), Ok(())),
        (&[], &[ROLE_ID], &["111122223333"], &[], Ok(()), Err(PRINCIPAL_UNBOUND)),
        (&[], &["AROAOTHER1234567890"], &[], &[], Err(PRINCIPAL_UNBOUND), Err(PRINCIPAL_UNBOUND)),
        (&[web], &["AROAOTHER1234567890"], &[], &[], Err(PRINCIPAL_UNBOUND), Err(PRINCIPAL_UNBOUND)),
        (&[web], &[], &["444455556666"], &[], Err(PRINCIPAL_UNBOUND), Err(PRINCIPAL_UNBOUND)),
        (&[], &[], &["111122223333"], &[], Err(PRINCIPAL_UNBOUND), Err(PRINCIPAL_UNBOUND)),
        (&[], &[], &[], &[], Err(PRINCIPAL_UNBOUND), Err(PRINCIPAL_UNBOUND)),
        (&[web], &[], &[], &["i-*"], Ok(()), Err(PRINCIPAL_UNBOUND)),
        (&[web], &[], &[], &["i-"], Err(SESSION_OTHER), Err(PRINCIPAL_UNBOUND)),
        (&[web], &[], &[], &["eks-*"], Err(SESSION_OTHER), Err(PRINCIPAL_UNBOUND)),
    ] {
        let role = role(arns, ids, accounts, sessions);
        assert_eq!(role.admit(&mine).map(|_| ()), of_mine, "{role:?}");
        assert_eq!(role.admit(&other).map(|_| ()), of_other, "{role:?}");
    }
}

#[test]
fn a_principal_that_was_made_again_is_another_one() {
    let first = caller("111122223333", "web", ROLE_ID, "s1");
    let again = caller("111122223333", "web", "AROAOTHER1234567890", "s1");
    let by_name = role(&["arn:aws:iam::111122223333:role/web"], &[], &[], &[]);
    let Ok(Admission::Pinned(pinned)) = by_name.admit(&first) else { panic!("the first is pinned") };
    assert_eq!(pinned.admit(&first), Ok(Admission::AsKnown));
    assert_eq!(pinned.admit(&again), Err(UNIQUE_ID_OTHER));
    let by_pattern = role(&["arn:aws:iam::111122223333:role/w*"], &[], &[], &[]);
    assert_eq!(by_pattern.admit(&again), Ok(Admission::AsKnown));
    let unresolved = Role { resolve_aws_unique_ids: false, ..by_name };
    assert_eq!(unresolved.admit(&again), Ok(Admission::AsKnown));
}

#[test]
fn a_pin_stays_while_its_arn_is_named_and_goes_when_it_is_told_to() {
    let account = "arn:aws:iam::111122223333:role";
    let (web, far, db) = (format!("{account}/web"), format!("{account}/svc/web"), format!("{account}/db"));
    for (body, stays) in [
        (serde_json::json!({"bound_iam_principal_arn": [web]}), true),
        (serde_json::json!({"token_ttl": 60}), true),
        (serde_json::json!({"bound_iam_principal_arn": [db, web]}), true),
        // names are unique within an account, whatever their path
        (serde_json::json!({"bound_iam_principal_arn": [far]}), true),
        (serde_json::json!({"bound_iam_principal_arn": [web], "forget_pins": false}), true),
        (serde_json::json!({"bound_iam_principal_arn": [db]}), false),
        (serde_json::json!({"bound_iam_principal_arn": [format!("{account}/w*")]}), false),
        (serde_json::json!({"bound_iam_principal_arn": [web], "forget_pins": true}), false),
        (serde_json::json!({"forget_pins": true}), false),
    ] {
        let first = caller("111122223333", "web", ROLE_ID, "s1");
        let Ok(Admission::Pinned(mut role)) = role(&[&web], &[], &[], &[]).admit(&first) else {
            panic!("it is pinned")
        };
        let text = envelope::SecretBytes::copy_from(body.to_string().as_bytes());
        role.update(&Body::parse(text).unwrap()).unwrap();
        assert_eq!(!role.pinned.is_empty(), stays, "{body}");
    }
}
