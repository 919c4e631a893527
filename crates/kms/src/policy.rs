//! Who may do what with a key: what the ACL says, and the key's grants, together. Pure.
//!
//! Any deny refuses; else an ACL allow or a live grant whose constraints the call meets allows (design §7). A key's state
//! plays no part here: it is asked after.

use crate::grant::{Ask, Grant};
use identity::Verdict;

/// The answer, and the rule that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<'p, 'g> {
    ByPolicy {
        rule: &'p str,
    },
    ByGrant(&'g Grant),
    DeniedByPolicy {
        rule: &'p str,
    },
    /// Nobody allows it.
    DeniedByNone,
}

/// `ask` is `None` for what no grant can allow.
pub fn decide<'p, 'g>(verdict: Verdict<'p>, grants: &'g [Grant], ask: Option<&Ask<'_>>) -> Access<'p, 'g> {
    match verdict {
        Verdict::Deny { rule } => Access::DeniedByPolicy { rule },
        Verdict::Allow { rule } => Access::ByPolicy { rule },
        Verdict::Nothing => match ask.and_then(|ask| grants.iter().find(|grant| grant.allows(ask))) {
            Some(grant) => Access::ByGrant(grant),
            None => Access::DeniedByNone,
        },
    }
}

#[cfg(test)]
mod tests;
