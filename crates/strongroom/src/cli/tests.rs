use super::*;

fn parse_words(words: &[&str]) -> Result<Cli, clap::Error> {
    parse(std::iter::once("strongroom").chain(words.iter().copied()).map(OsString::from))
}

fn at(line: &str) -> Result<Cli, clap::Error> {
    parse_words(&line.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn the_grammar_holds_together_and_every_command_has_help() {
    fn walk(command: &clap::Command, path: &str, seen: &mut usize) {
        *seen += 1;
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path} says nothing of itself");
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let documented =
                argument.get_help().is_some() || argument.get_id() == "mac_algorithm" || argument.get_id() == "name";
            assert!(documented, "{path}: {} has no help", argument.get_id());
        }
        command.get_subcommands().for_each(|inner| walk(inner, &path, seen));
    }
    let command = Cli::command();
    command.clone().debug_assert();
    let mut seen = 0;
    walk(&command, "", &mut seen);
    assert!(seen > 50, "only {seen} commands");
}

#[test]
fn a_token_is_never_an_argument() {
    for line in [
        "kms list-keys --token sr.secret",
        "kms --token sr.secret list-keys",
        "token --token=sr.secret lookup",
        "kms list-keys --vault-token sr.secret",
    ] {
        let error = at(line).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains("--token-file") && !text.contains("sr.secret"), "{text}");
    }
}

#[test]
fn what_is_said_wrongly_is_usage() {
    for line in [
        "",
        "kms",
        "nonsense",
        "kms nonsense",
        "kms list-keys --output xml",
        "kms list-keys --timeout soon",
        "kms create-key --key-spec AES_9000",
        "kms describe-key",
        "kms encrypt --key-id k",
        "kms encrypt --key-id k --plaintext-file - --context nonsense",
        "kms encrypt --key-id k --plaintext-file - --force",
        "kms decrypt --ciphertext-blob AAAA",
        "kms decrypt --ciphertext-blob !!!! --show-plaintext",
        "kms decrypt --show-plaintext",
        "kms decrypt --ciphertext-blob AAAA --ciphertext-file f --show-plaintext",
        "kms decrypt --ciphertext-blob AAAA --show-plaintext --out f",
        "kms generate-data-key --key-id k",
        "kms generate-data-key --key-id k --show-plaintext --key-spec AES_256 --number-of-bytes 5",
        "kms generate-random --number-of-bytes 5",
        "kms sign --key-id k --message-file -",
        "kms verify --key-id k --message-file - --signing-algorithm ECDSA_SHA_256",
        "kms create-grant --key-id k --grantee-principal cert/a",
        "kms create-grant --key-id k --grantee-principal cert/a --operations DECRYPT,NONSENSE",
        "kms create-grant --key-id k --grantee-principal cert/a --operations DECRYPT --expires-in 1h --expiration-date 2027-01-01T00:00:00Z",
        "kms encrypt-file f",
        "token create",
        "token create --show-token --token-out f",
        "token renew",
        "token renew --self --accessor a",
        "token revoke",
        "token revoke --self --accessor a",
        "auth cert write r --policy p",
        "auth cert write r --common-name n",
        "auth cert write r --policy p --common-name n --san s",
        "auth cert write r --policy p --thumbprint abc",
        "audit",
        "audit tail --dir a --data-dir b",
        "audit tail --dir a -n many",
        "audit search --dir a --from yesterday",
        "audit prove --dir a",
        "audit prove first --dir a",
        "audit export --dir a",
        "audit export --dir a --jsonl f --tlog d",
        "audit export --dir a --tlog d --force",
        "audit verify --dir a --force",
        "audit keygen",
        "audit witness --name n --dir d --log k",
        "audit witness --name n --dir d --listen 127.0.0.1:0",
        "audit witness --name n --dir d --listen 127.0.0.1:0 --log k --tls-cert c",
        "operator backup",
        "operator restore --from f",
        "operator boundary status --socket s --identity i --pin sha256:nonsense",
        "server",
    ] {
        let error = at(line).map(|cli| format!("{cli:?}")).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn what_is_said_rightly_parses() {
    let pin = ["sha256:", &"ab".repeat(32)].concat();
    let lines = [
        "dev",
        "dev --listen 127.0.0.1:0 --data-dir d --root-token t --hsm sim --no-tls",
        "server --config f",
        "demo",
        "kms create-key",
        "kms create-key --key-spec ecc_nist_p256 --key-usage SIGN_VERIFY --protection-level BOUNDARY --description d --client-request-id r",
        "kms describe-key --key-id alias/a --output json --address https://h:1 --ca-cert f",
        "--version",
        "kms list-keys --limit 5 --marker m",
        "kms schedule-key-deletion --key-id k --pending-window-in-days 7",
        "kms create-alias --alias-name alias/a --target-key-id k",
        "kms generate-data-key --key-id k --number-of-bytes 16 --plaintext-out p --ciphertext-out c --context a=b --context c=d",
        "kms encrypt --key-id k --plaintext-file - --encryption-context a=b --out o --force",
        "kms decrypt --ciphertext-file - --show-plaintext",
        "kms decrypt --ciphertext-blob AAAA --out -",
        "kms re-encrypt --ciphertext-blob AAAA --destination-key-id k --source-context a=b --destination-context c=d",
        "kms sign --key-id k --message-file - --message-type digest --signing-algorithm ED25519_SHA_512",
        "kms verify --key-id k --message-file f --signing-algorithm ECDSA_SHA_256 --signature AAAA",
        "kms get-public-key --key-id k --format der --out o",
        "kms verify-mac --key-id k --message-file - --mac AAAA",
        "kms create-grant --key-id k --grantee-principal cert/a --operations decrypt,ENCRYPT --operations SIGN --expires-in 12h",
        "kms encrypt-file --key-id k f --out - --preserve-mode",
        "kms decrypt-file f.sr",
        "token create --policy a --policy b --ttl 12h --num-uses 3 --token-out -",
        "token renew --self --increment 12h",
        "token revoke --self",
        "policy write p -",
        "auth cert write r --policy p --san s",
        "audit verify --dir d --key k --checkpoint a --checkpoint b --save-checkpoint a --force --receipt r --output json",
        "audit verify --key k --receipt r",
        "audit tail --data-dir d -n 5 --follow --personal-key f",
        "audit search --dir d --from 2027-01-01T00:00:00Z --to 2028-01-01T00:00:00Z --operation o --subject s --path p --key-id k --request-id r --outcome failed",
        "audit prove 7 --dir d --out f --force",
        "audit export --dir d --jsonl -",
        "audit export --dir d --tlog t",
        "audit witness --name n --dir d --listen 127.0.0.1:0 --log k --log l --tls-cert c --tls-key k",
        "operator restore --from f --data-dir d",
        &format!("operator boundary init --socket s --identity i --pin {pin} --threshold 2 --shares 3 --out o"),
        &format!("operator boundary enroll --socket s --identity i --pin {pin} --role user --peer-pin {pin}"),
    ];
    for line in lines {
        match at(line) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), clap::error::ErrorKind::DisplayVersion, "{line}: {error}"),
        }
    }
}

#[test]
fn pages_end_where_that_was_asked_for() {
    use super::kms::{Next, PageArguments};
    let all = PageArguments { limit: None, marker: None };
    let one = PageArguments { limit: Some(5), marker: None };
    let after = PageArguments { limit: None, marker: Some("m".into()) };
    for (page, truncated, next) in [
        (&all, true, Next::Page("n".into())),
        (&all, false, Next::End(None)),
        (&one, true, Next::End(Some("n".into()))),
        (&one, false, Next::End(None)),
        (&after, true, Next::End(Some("n".into()))),
    ] {
        assert_eq!(page.next("n".into(), truncated), next);
    }
}
