//! What a role may say of its users: a list of ACL rules, each looked at.
//!
//! Always: what would make a user more than a user is taken away at the end, unless the role names it itself: `+@all` and
//! `+@admin` bring no `ACL`, `+acl` does.
//! Never: a rule that touches passwords, flags or selectors: those are ours.

/// The rules of the role's texts, with the user's name put in.
pub(super) fn compile(texts: &[String], name: &str) -> Result<Vec<String>, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    if name.is_empty() || !name.chars().all(plain) {
        return Err("a name that may not stand in rules".to_owned());
    }
    let mut rules = Vec::new();
    for text in texts {
        for rule in words(text)? {
            let rule = rule.replace("{{name}}", name).replace("{{username}}", name);
            check(&rule)?;
            rules.push(if rule.starts_with(['+', '-']) { rule.to_ascii_lowercase() } else { rule });
        }
    }
    if rules.len() > RULES_MAX {
        return Err(format!("more than {RULES_MAX} rules"));
    }
    let taken: Vec<String> = POWERFUL.iter().flat_map(|command| taken_away(command, &rules)).collect();
    rules.extend(taken);
    Ok(rules)
}

/// As Vault's clients send them, a JSON list; or words.
fn words(text: &str) -> Result<Vec<String>, String> {
    let text = text.trim();
    if !text.starts_with('[') {
        return Ok(text.split_whitespace().map(str::to_owned).collect());
    }
    let list: Vec<String> = serde_json::from_str(text).map_err(|_| "no list of rules".to_owned())?;
    Ok(list.iter().flat_map(|rule| rule.split_whitespace()).map(str::to_owned).collect())
}

fn check(rule: &str) -> Result<(), String> {
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let pattern = |text: &str| !text.is_empty() && text.chars().all(|c| !c.is_control() && !matches!(c, '(' | ')'));
    // a mark of ours is nobody else's
    let pattern = |text: &str| pattern(text) && !text.contains(super::MARK);
    let sound = match rule.split_at_checked(1) {
        _ if WHOLE.contains(&rule) => true,
        Some(("~" | "&", rest)) => pattern(rest),
        Some(("%", rest)) => rest.split_once('~').is_some_and(|(how, rest)| {
            matches!(how.to_ascii_uppercase().as_str(), "R" | "W" | "RW" | "WR") && pattern(rest)
        }),
        Some(("+" | "-", rest)) => match rest.strip_prefix('@') {
            Some(category) => word(category),
            None => rest.split('|').count() <= 2 && rest.split('|').all(word),
        },
        Some(_) | None => false,
    };
    // what is refused may be a password: it is not repeated
    if sound { Ok(()) } else { Err("a rule that is none of keys, channels, commands and categories".to_owned()) }
}

/// A command goes, but what of it the role names stays.
fn taken_away(command: &str, rules: &[String]) -> Vec<String> {
    let container = command.split('|').next().unwrap_or(command);
    let names = |what: &str| rules.iter().any(|rule| rule.strip_prefix('+') == Some(what));
    if names(command) || names(container) {
        return Vec::new();
    }
    let part = format!("+{command}|");
    let kept = rules.iter().filter(|rule| rule.starts_with(&part)).cloned();
    std::iter::once(format!("-{command}")).chain(kept).collect()
}

/// Rules that are one word.
const WHOLE: [&str; 6] = ["allkeys", "allchannels", "allcommands", "nocommands", "resetchannels", "sanitize-payload"];
/// Through which a user becomes another, sees what others do, outlives its lease, or changes the server.
const POWERFUL: [&str; 26] = [
    "acl",
    "bgrewriteaof",
    "bgsave",
    "client|kill",
    "client|list",
    "client|pause",
    "client|unblock",
    "cluster",
    "config",
    "debug",
    "failover",
    "function",
    "latency",
    "migrate",
    "module",
    "monitor",
    "pfdebug",
    "psync",
    "replconf",
    "replicaof",
    "restore-asking",
    "save",
    "shutdown",
    "slaveof",
    "slowlog",
    "sync",
];
const RULES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_says_keys_channels_and_commands_and_nothing_of_who_may_come_in() {
        for (text, refused) in [
            ("~app:* +@read", false),
            ("[\"~cached:*\", \"+@read\"]", false),
            ("allkeys &chan:* %R~ro:* %rw~x +get -@dangerous +client|id", false),
            ("~{{username}}:* +@all", false),
            (">password", true),
            ("<password", true),
            ("nopass", true),
            ("#0000000000000000000000000000000000000000000000000000000000000000", true),
            ("on", true),
            ("off", true),
            ("reset", true),
            ("resetpass", true),
            ("clearselectors", true),
            ("(+@all", true),
            ("~a) (+@all", true),
            ("~strongroom:lease=ab:instance=cd", true),
            ("skip-sanitize-payload", true),
            ("+acl|setuser|x", true),
            ("+", true),
            ("~", true),
            ("+@", true),
            ("%X~a", true),
            ("[1]", true),
        ] {
            assert_eq!(compile(&[text.to_owned()], "v-a").is_err(), refused, "{text}");
        }
        for name in ["", "a b", "a*", "a>b", "a\n", "[a]", "ä"] {
            assert!(compile(&["~{{name}}".to_owned()], name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_powerful_is_had_by_name_alone() {
        let of = |text: &str| compile(&[text.to_owned()], "v").unwrap();
        for broad in ["+@all", "allcommands", "+@admin", "+@dangerous", "+@slow", "+@ALL"] {
            let rules = of(broad);
            for command in POWERFUL {
                assert!(rules.contains(&format!("-{command}")), "{broad} {command}");
            }
        }
        assert!(!of("+@all +CONFIG").contains(&"-config".to_owned()));
        let part = of("+@all +acl|whoami");
        let (gone, kept) = (part.iter().position(|r| r == "-acl"), part.iter().rposition(|r| r == "+acl|whoami"));
        assert!(gone.unwrap() < kept.unwrap());
        assert_eq!(of("~{{name}}:*").first().unwrap(), "~v:*");
    }
}
