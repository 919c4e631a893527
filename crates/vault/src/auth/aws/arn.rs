//! Who called: what the security token service said, read strictly; and whom a role lets in.
//!
//! Always: account, name and unique id are compared together, and the partition with them. A role's name says nothing
//! without its account.
//! Always: the three members of an answer agree with one another; what does not is no answer.
//!
//! An assumed role's ARN does not tell the path of the role. Names of roles and users are unique within an account whatever
//! their path, so that names are what is compared; a pattern that has a path is refused when it is written.

use super::endpoint::is_partition;

/// What the service answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) account: String,
    pub(super) arn: String,
    pub(super) user_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    User,
    Role,
}

/// A user, or who has assumed a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) partition: String,
    pub(super) account: String,
    pub(super) class: Class,
    /// Without its path.
    pub(super) name: String,
    /// `AIDA…` of a user, `AROA…` of a role: what is made again has another one.
    pub(super) unique_id: String,
    /// Of an assumed role. Whoever may assume it chooses this.
    pub(super) session: Option<String>,
    /// As it was told.
    pub(super) arn: String,
    pub(super) user_id: String,
}

/// Why nobody was recognised in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unrecognised {
    /// An account's root user.
    Root,
    /// Federated users, and what there may be else.
    Other,
    /// The members contradict one another, or are malformed.
    Contradiction,
}

impl Caller {
    pub(super) fn recognise(told: &Told) -> Result<Self, Unrecognised> {
        let wrong = Unrecognised::Contradiction;
        let mut parts = told.arn.splitn(6, ':');
        let mut next = || parts.next().ok_or(wrong);
        let (arn, partition, service, region, account, resource) =
            (next()?, next()?, next()?, next()?, next()?, next()?);
        let sound = arn == "arn" && is_partition(partition) && region.is_empty() && is_account(account);
        if !sound || account != told.account {
            return Err(wrong);
        }
        let segments: Vec<&str> = resource.split('/').collect();
        let (class, name, session) = match (service, segments.as_slice()) {
            ("iam", ["root"]) => return Err(Unrecognised::Root),
            ("iam", ["user", path @ .., name]) if path.iter().all(|segment| is_path_segment(segment)) => {
                (Class::User, *name, None)
            }
            ("sts", ["assumed-role", name, session]) => (Class::Role, *name, Some(*session)),
            ("iam" | "sts", _) => return Err(Unrecognised::Other),
            _ => return Err(wrong),
        };
        if !is_name(name) || session.is_some_and(|session| !is_name(session)) {
            return Err(wrong);
        }
        let unique_id = match (class, session) {
            (Class::User, _) => told.user_id.as_str(),
            (Class::Role, session) => {
                let (id, told_session) = told.user_id.split_once(':').ok_or(wrong)?;
                if Some(told_session) != session {
                    return Err(wrong);
                }
                id
            }
        };
        if Class::of_unique_id(unique_id) != Some(class) {
            return Err(wrong);
        }
        Ok(Self {
            partition: partition.to_owned(),
            account: account.to_owned(),
            class,
            name: name.to_owned(),
            unique_id: unique_id.to_owned(),
            session: session.map(str::to_owned),
            arn: told.arn.clone(),
            user_id: told.user_id.clone(),
        })
    }

    /// Of the user or the role, without session and path.
    pub(super) fn canonical_arn(&self) -> String {
        let Self { partition, account, name, .. } = self;
        format!("arn:{partition}:iam::{account}:{}/{name}", self.class.as_str())
    }

    /// What the session's name looks like. It proves nothing: whoever may assume the role chooses it.
    pub(super) fn session_looks_like(&self) -> Option<&'static str> {
        let session = self.session.as_deref()?;
        let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        Some(match session {
            _ if session.strip_prefix("i-").is_some_and(|id| matches!(id.len(), 8 | 17) && hex(id)) => "ec2-instance",
            _ if session.starts_with("eks-") => "eks-pod-identity",
            _ if session.starts_with("botocore-session-") || session.starts_with("aws-sdk-") => "sdk-session",
            _ if session.len() == 32 && hex(session) => "ecs-task",
            _ if self.name.starts_with("AWSReservedSSO_") => "identity-center",
            _ => "other",
        })
    }
}

impl Class {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Role => "role",
        }
    }

    pub(super) fn of_unique_id(id: &str) -> Option<Self> {
        let legal = |rest: &str| {
            (12..=124).contains(&rest.len()) && rest.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9'))
        };
        match id.split_at_checked(4)? {
            ("AIDA", rest) if legal(rest) => Some(Self::User),
            ("AROA", rest) if legal(rest) => Some(Self::Role),
            _ => None,
        }
    }
}

/// One of a role's `bound_iam_principal_arn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound<'a> {
    partition: &'a str,
    account: &'a str,
    class: Class,
    name: &'a str,
    /// The name goes on in any way.
    open: bool,
}

impl<'a> Bound<'a> {
    pub(super) fn parse(raw: &'a str) -> Result<Self, &'static str> {
        let parts: Vec<&str> = raw.split(':').collect();
        let ["arn", partition, "iam", "", account, resource] = parts.as_slice() else {
            return Err("not like arn:aws:iam::111122223333:role/NAME (of an assumed role, name the role)");
        };
        if !is_partition(partition) || !is_account(account) {
            return Err("an unknown partition, or not twelve digits of an account");
        }
        let (class, rest) = match resource.split_once('/') {
            Some(("user", rest)) => (Class::User, rest),
            Some(("role", rest)) => (Class::Role, rest),
            _ => return Err("neither user/NAME nor role/NAME; root is nobody's"),
        };
        let (rest, open) = rest.strip_suffix('*').map_or((rest, false), |rest| (rest, true));
        let (path, name) = rest.rsplit_once('/').map_or((None, rest), |(path, name)| (Some(path), name));
        if open && path.is_some() {
            return Err("a pattern with a path: the path of a role is not told, so that it cannot be compared");
        }
        if path.is_some_and(|path| !path.split('/').all(is_path_segment))
            || !(is_name(name) || (open && name.is_empty()))
        {
            return Err("a malformed name; `*` stands at its end only");
        }
        Ok(Self { partition, account, class, name, open })
    }

    pub(super) fn matches(&self, caller: &Caller) -> bool {
        let named = if self.open { caller.name.starts_with(self.name) } else { caller.name == self.name };
        self.partition == caller.partition && self.account == caller.account && self.class == caller.class && named
    }
}

pub(super) fn is_account(raw: &str) -> bool {
    raw.len() == 12 && raw.bytes().all(|byte| byte.is_ascii_digit())
}

/// IAM's alphabet for names of users, roles and sessions.
pub(super) fn is_name(raw: &str) -> bool {
    let legal =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'=' | b',' | b'.' | b'@' | b'-');
    (1..=64).contains(&raw.len()) && raw.bytes().all(legal)
}

fn is_path_segment(raw: &str) -> bool {
    (1..=512).contains(&raw.len()) && raw.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE_ID: &str = "AROAEXAMPLE123456789";
    const USER_ID: &str = "AIDAEXAMPLE123456789";

    fn told(account: &str, arn: &str, user_id: &str) -> Told {
        Told { account: account.into(), arn: arn.into(), user_id: user_id.into() }
    }

    #[test]
    fn who_called_is_recognised_or_nobody_is() {
        let session = format!("{ROLE_ID}:i-0123456789abcdef0");
        let a = "111122223333";
        let role = "arn:aws:sts::111122223333:assumed-role/web/i-0123456789abcdef0";
        for (answer, expected) in [
            (told(a, role, &session), Ok(("arn:aws:iam::111122223333:role/web", ROLE_ID))),
            (
                told(a, "arn:aws-cn:sts::111122223333:assumed-role/web/s1", &format!("{ROLE_ID}:s1")),
                Ok(("arn:aws-cn:iam::111122223333:role/web", ROLE_ID)),
            ),
            (
                told(a, "arn:aws:iam::111122223333:user/dev/alice", USER_ID),
                Ok(("arn:aws:iam::111122223333:user/alice", USER_ID)),
            ),
            (told(a, "arn:aws:iam::111122223333:root", a), Err(Unrecognised::Root)),
            (told(a, "arn:aws:sts::111122223333:federated-user/bob", "111122223333:bob"), Err(Unrecognised::Other)),
            (told(a, "arn:aws:iam::111122223333:role/web", ROLE_ID), Err(Unrecognised::Other)),
            (told(a, "arn:aws:sts::111122223333:assumed-role/svc/web/s1", &session), Err(Unrecognised::Other)),
            (told(a, "arn:aws:iam::111122223333:user/", USER_ID), Err(Unrecognised::Contradiction)),
            (told("444455556666", role, &session), Err(Unrecognised::Contradiction)),
            (told(a, role, &format!("{ROLE_ID}:other")), Err(Unrecognised::Contradiction)),
            (told(a, role, ROLE_ID), Err(Unrecognised::Contradiction)),
            (told(a, role, &format!("{USER_ID}:i-0123456789abcdef0")), Err(Unrecognised::Contradiction)),
            (told(a, "arn:aws:iam::111122223333:user/alice", ROLE_ID), Err(Unrecognised::Contradiction)),
            (told(a, "arn:aws:iam::111122223333:user/alice", "AIDAshort"), Err(Unrecognised::Contradiction)),
            (told(a, "arn:mars:iam::111122223333:user/alice", USER_ID), Err(Unrecognised::Contradiction)),
            (told(a, "arn:aws:iam:eu:111122223333:user/alice", USER_ID), Err(Unrecognised::Contradiction)),
            (told(a, "arn:aws:s3::111122223333:user/alice", USER_ID), Err(Unrecognised::Contradiction)),
            (told(a, "arn:aws:iam::111122223333:user/al ice", USER_ID), Err(Unrecognised::Contradiction)),
            (told(a, "arn:aws:iam::111122223333", USER_ID), Err(Unrecognised::Contradiction)),
        ] {
            let found = Caller::recognise(&answer);
            let found = found.as_ref().map(|caller| (caller.canonical_arn(), caller.unique_id.as_str()));
            assert_eq!(found, expected.as_ref().map(|(arn, id)| ((*arn).to_owned(), *id)), "{answer:?}");
        }
    }

    #[test]
    fn a_bound_arn_lets_in_its_own_account_partition_class_and_name() {
        let caller = |arn: &str, id: &str| Caller::recognise(&told("111122223333", arn, id)).unwrap();
        let web = caller("arn:aws:sts::111122223333:assumed-role/web/s1", &format!("{ROLE_ID}:s1"));
        let alice = caller("arn:aws:iam::111122223333:user/dev/alice", USER_ID);
        for (bound, of_web, of_alice) in [
            ("arn:aws:iam::111122223333:role/web", true, false),
            ("arn:aws:iam::111122223333:role/svc/web", true, false),
            ("arn:aws:iam::111122223333:role/w*", true, false),
            ("arn:aws:iam::111122223333:role/*", true, false),
            ("arn:aws:iam::111122223333:role/web1", false, false),
            ("arn:aws:iam::111122223333:role/we", false, false),
            ("arn:aws:iam::444455556666:role/web", false, false),
            ("arn:aws-cn:iam::111122223333:role/web", false, false),
            ("arn:aws:iam::111122223333:user/web", false, false),
            ("arn:aws:iam::111122223333:user/alice", false, true),
            ("arn:aws:iam::111122223333:user/dev/alice", false, true),
            ("arn:aws:iam::111122223333:user/*", false, true),
        ] {
            let parsed = Bound::parse(bound).unwrap();
            assert_eq!((parsed.matches(&web), parsed.matches(&alice)), (of_web, of_alice), "{bound}");
        }
        for malformed in [
            "",
            "*",
            "arn:aws:iam::*:role/web",
            "arn:aws:iam::111122223333:*",
            "arn:aws:iam::111122223333:root",
            "arn:*:iam::111122223333:role/web",
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role/w*b",
            "arn:aws:iam::111122223333:role/svc/*",
            "arn:aws:iam::111122223333:role//web",
            "arn:aws:sts::111122223333:assumed-role/web/s1",
            "arn:aws:iam::11112222333:role/web",
            "arn:aws:iam::111122223333:role/web:x",
        ] {
            assert!(Bound::parse(malformed).is_err(), "{malformed}");
        }
    }

    #[test]
    fn what_a_session_looks_like_is_told_and_proves_nothing() {
        for (session, kind) in [
            ("i-0123456789abcdef0", "ec2-instance"),
            ("i-0123456789abcdefg", "other"),
            ("eks-prod-web-7d5c-1b2c3d4e", "eks-pod-identity"),
            ("botocore-session-1764332400", "sdk-session"),
            ("0123456789abcdef0123456789abcdef", "ecs-task"),
            ("resize-images", "other"),
        ] {
            let arn = format!("arn:aws:sts::111122223333:assumed-role/web/{session}");
            let caller = Caller::recognise(&told("111122223333", &arn, &format!("{ROLE_ID}:{session}"))).unwrap();
            assert_eq!(caller.session_looks_like(), Some(kind), "{session}");
        }
    }
}
