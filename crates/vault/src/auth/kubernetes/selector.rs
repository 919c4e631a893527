//! Label selectors, as Kubernetes has them: what a namespace's labels must be. Pure.

use crate::error::VaultError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Selector {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    match_labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    match_expressions: Vec<Expression>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Of its JSON. One that asks for nothing would select all, and is refused.
    pub(super) fn parse(text: &str) -> Result<Self, VaultError> {
        let wrong = |why: &'static str| VaultError::field("bound_service_account_namespace_selector", why);
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(wrong("more than 4096 bytes"));
        }
        serde_json::from_str::<crate::body::Strict>(text).map_err(|_| wrong("no JSON of unique keys"))?;
        let selector: Self = serde_json::from_str(text).map_err(|_| {
            wrong("no label selector in JSON: matchLabels, matchExpressions with key, operator, values")
        })?;
        if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
            return Err(wrong("it asks for nothing, and would select every namespace"));
        }
        for Expression { key: _, operator, values } in &selector.match_expressions {
            let fits = match operator {
                Operator::In | Operator::NotIn => !values.is_empty(),
                Operator::Exists | Operator::DoesNotExist => values.is_empty(),
            };
            if !fits {
                return Err(wrong("In and NotIn have values; Exists and DoesNotExist have none"));
            }
        }
        Ok(selector)
    }

    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal && self.match_expressions.iter().all(|expression| expression.holds(labels.get(&expression.key)))
    }
}

impl Expression {
    fn holds(&self, value: Option<&String>) -> bool {
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            // as Kubernetes has it: what has no such label is not in
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

const SELECTOR_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_selects_as_kubernetes_does() {
        let labels = |text: &str| -> BTreeMap<String, String> {
            text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
        };
        for (selector, of, selected) in [
            (r#"{"matchLabels": {"env": "prod"}}"#, "env=prod,team=a", true),
            (r#"{"matchLabels": {"env": "prod"}}"#, "env=production", false),
            (r#"{"matchLabels": {"env": "prod"}}"#, "", false),
            (r#"{"matchLabels": {"env": "prod", "team": "a"}}"#, "env=prod", false),
            (
                r#"{"matchExpressions": [{"key": "env", "operator": "In", "values": ["prod", "test"]}]}"#,
                "env=test",
                true,
            ),
            (r#"{"matchExpressions": [{"key": "env", "operator": "In", "values": ["prod"]}]}"#, "team=prod", false),
            (r#"{"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}"#, "env=prod", false),
            (r#"{"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}"#, "", true),
            (r#"{"matchExpressions": [{"key": "env", "operator": "Exists"}]}"#, "env=", true),
            (r#"{"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}"#, "env=", false),
            (r#"{"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}"#, "a=1", false),
        ] {
            assert_eq!(Selector::parse(selector).unwrap().selects(&labels(of)), selected, "{selector} {of}");
        }
        for wrong in [
            "",
            "{}",
            "env=prod",
            r#"{"matchLabels": {}}"#,
            r#"{"matchLabel": {"env": "prod"}}"#,
            r#"{"matchLabels": {"env": "prod", "env": "test"}}"#,
            r#"{"matchExpressions": [{"key": "env", "operator": "in", "values": ["prod"]}]}"#,
            r#"{"matchExpressions": [{"key": "env", "operator": "In"}]}"#,
            r#"{"matchExpressions": [{"key": "env", "operator": "Exists", "values": ["prod"]}]}"#,
        ] {
            assert!(Selector::parse(wrong).is_err(), "{wrong}");
        }
    }
}
