use super::*;
use crate::grant::{GrantConstraints, GrantOperation, Operations};
use crate::name::{GrantId, PrincipalName};
use envelope::{EncryptionContext, Timestamp};
use proptest::prelude::*;

/// The same in other words: no early exits, no iterators that stop, each condition by itself.
fn slow(verdict: Verdict<'_>, grants: &[Grant], ask: Option<&Ask<'_>>) -> bool {
    let denied = matches!(verdict, Verdict::Deny { .. });
    let allowed = matches!(verdict, Verdict::Allow { .. });
    let mut granted = 0;
    for grant in grants {
        let Some(ask) = ask else { continue };
        let mut reasons_against = 0;
        if grant.grantee.as_str() != ask.principal {
            reasons_against += 1;
        }
        if !grant.operations.iter().collect::<Vec<_>>().contains(&ask.operation) {
            reasons_against += 1;
        }
        if grant.expires.is_some() && grant.expires <= Some(ask.now) {
            reasons_against += 1;
        }
        let (subset, equals) = (grant.constraints.subset.pairs(), grant.constraints.equals.pairs());
        match ask.context {
            None if !subset.is_empty() || !equals.is_empty() => reasons_against += 1,
            None => {}
            Some(context) => {
                for pair in subset {
                    if !context.pairs().iter().any(|given| given == pair) {
                        reasons_against += 1;
                    }
                }
                if !equals.is_empty() && equals != context.pairs() {
                    reasons_against += 1;
                }
            }
        }
        if reasons_against == 0 {
            granted += 1;
        }
    }
    !denied && (allowed || granted > 0)
}

fn contexts() -> impl Strategy<Value = EncryptionContext> {
    let pairs = prop::collection::btree_map("[ab]", "[xy]", 0..3);
    pairs.prop_map(|pairs| EncryptionContext::parse(pairs).unwrap())
}

fn operation() -> impl Strategy<Value = GrantOperation> {
    // few of them, so that they meet
    prop::sample::select(vec![GrantOperation::Decrypt, GrantOperation::Encrypt, GrantOperation::DescribeKey])
}

fn principals() -> impl Strategy<Value = PrincipalName> {
    prop::sample::select(vec!["token/a", "token/b", "cert/a"]).prop_map(|name| PrincipalName::parse(name).unwrap())
}

prop_compose! {
    fn grants()(
        grantee in principals(),
        operations in prop::collection::btree_set(operation(), 1..3),
        subset in contexts(),
        equals in contexts(),
        expires in prop::option::of(0u64..4),
    ) -> Grant {
        Grant {
            id: GrantId::from_bytes([1; 16]),
            name: None,
            issuing: grantee.clone(),
            retiring: None,
            grantee,
            operations: Operations::of(operations).unwrap(),
            constraints: GrantConstraints { subset, equals },
            created: Timestamp::default(),
            expires: expires.map(Timestamp::from_unix_millis),
        }
    }
}

fn verdicts() -> impl Strategy<Value = Verdict<'static>> {
    prop::sample::select(vec![
        Verdict::Nothing,
        Verdict::Nothing,
        Verdict::Nothing,
        Verdict::Allow { rule: "p" },
        Verdict::Deny { rule: "p" },
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn deciding_agrees_with_the_slow_obvious_way(
        verdict in verdicts(),
        grants in prop::collection::vec(grants(), 0..5),
        principal in principals(),
        operation in operation(),
        context in prop::option::of(contexts()),
        now in 0u64..4,
        grantable in prop::bool::weighted(0.9),
    ) {
        let now = Timestamp::from_unix_millis(now);
        let ask = Ask { principal: principal.as_str(), operation, context: context.as_ref(), now };
        let ask = grantable.then_some(&ask);
        let decided = match decide(verdict, &grants, ask) {
            Access::ByPolicy { .. } | Access::ByGrant(_) => true,
            Access::DeniedByPolicy { .. } | Access::DeniedByNone => false,
        };
        prop_assert_eq!(decided, slow(verdict, &grants, ask));
    }

    /// Whatever a grant covers allows nothing that the grant itself does not.
    #[test]
    fn a_covered_grant_allows_nothing_more(
        parent in grants(),
        child in grants(),
        operation in operation(),
        context in contexts(),
        now in 0u64..4,
    ) {
        let ask = |principal| Ask {
            principal,
            operation,
            context: operation.takes_context().then_some(&context),
            now: Timestamp::from_unix_millis(now),
        };
        if parent.covers(&child) && child.allows(&ask(child.grantee.as_str())) {
            prop_assert!(parent.allows(&ask(parent.grantee.as_str())));
        }
    }
}
