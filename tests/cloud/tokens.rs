//! Google and Azure: tokens of their metadata services, fetched by their makers' own libraries from a stand-in.

use crate::stand::{Script, Shows, Stand, agent_login, in_the_end, strongroom_login, tell};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const AUDIENCE: &str = "https://vault.example/gcp";
const EMAIL: &str = "web@project-1.iam.gserviceaccount.com";
const RESOURCE: &str = "https://vault.example";
const TENANT: &str = "aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb";
const OBJECT: &str = "cccccccc-0000-1111-2222-dddddddddddd";
const MACHINE: &str = "/subscriptions/eeeeeeee-0000-1111-2222-ffffffffffff/resourceGroups/Prod/providers/Microsoft.Compute/virtualMachines/web";

/// A stand-in for both clouds, and mounts `gcp` and `azure` that know it.
struct Clouds {
    stand: Stand,
    _script: Script,
    port: u64,
    vendors: Script,
}

impl Clouds {
    fn start() -> Self {
        let (stand, script) = (Stand::new(), Script::start("metadata_standin.py", &[]));
        let port = script.line()["port"].as_u64().unwrap();
        let here = format!("127.0.0.1:{port}");
        let vendors = Script::start(
            "vendors.py",
            &[
                ("GCE_METADATA_HOST", here.clone()),
                ("GCE_METADATA_IP", here.clone()),
                ("AZURE_POD_IDENTITY_AUTHORITY_HOST", format!("http://{here}")),
            ],
        );
        let clouds = Self { stand, _script: script, port, vendors };
        let instance = json!({"project_id": "project-1", "project_number": 1, "zone": "europe-west1-b",
                              "instance_id": "4242424242", "instance_name": "web-1", "instance_creation_timestamp": 1});
        let google = json!({"sub": "109876543210987654321", "email": EMAIL, "compute_engine": instance});
        let azure = json!({"tid": TENANT, "oid": OBJECT, "appid": OBJECT, "xms_mirid": MACHINE, "xms_az_rid": MACHINE});
        tell(port, "/__set", &json!({"google": google, "azure": azure}));
        clouds.configure();
        clouds
    }

    fn configure(&self) {
        let (stand, here) = (&self.stand, format!("http://127.0.0.1:{}", self.port));
        for mount in ["gcp", "azure"] {
            stand.done("POST", &format!("sys/auth/{mount}"), json!({"type": mount}));
        }
        let keys = json!({"audience": AUDIENCE, "jwks_url": format!("{here}/jwks"),
                          "service_account_jwks_url": format!("{here}/accounts")});
        stand.done("POST", "auth/gcp/config", keys);
        let azure = json!({"tenant_id": TENANT, "resource": RESOURCE, "jwks_url": format!("{here}/jwks")});
        stand.done("POST", "auth/azure/config", azure);
        for (path, role) in [
            (
                "gcp/role/web",
                json!({"type": "gce", "bound_service_accounts": [EMAIL], "bound_projects": ["project-1"],
                                    "bound_regions": ["europe-west1"], "token_policies": "app", "token_ttl": "1h"}),
            ),
            ("gcp/role/other", json!({"type": "gce", "bound_projects": ["project-2"]})),
            (
                "gcp/role/zone",
                json!({"type": "gce", "bound_projects": ["project-1"], "bound_zones": ["europe-west1-c"]}),
            ),
            ("gcp/role/account", json!({"type": "gce", "bound_service_accounts": ["100000000000000000000"]})),
            ("gcp/role/instance", json!({"type": "gce", "bound_instance_ids": ["1"]})),
            ("gcp/role/signer", json!({"type": "iam", "bound_service_accounts": [EMAIL]})),
            (
                "azure/role/web",
                json!({"bound_service_principal_ids": [OBJECT], "bound_resource_groups": ["PROD"],
                                      "token_policies": "app", "token_ttl": "1h", "max_age": "10m"}),
            ),
            (
                "azure/role/machine",
                json!({"bound_resource_ids": [MACHINE.replace("/providers/Microsoft.Compute/virtualMachines/web", "/*")]}),
            ),
            ("azure/role/principal", json!({"bound_service_principal_ids": [TENANT]})),
            ("azure/role/subscription", json!({"bound_subscription_ids": [TENANT]})),
            ("azure/role/group", json!({"bound_service_principal_ids": [OBJECT], "bound_resource_groups": ["test"]})),
            ("azure/role/resource", json!({"bound_resource_ids": [MACHINE.replace("web", "api")]})),
        ] {
            stand.done("POST", &format!("auth/{path}"), role);
        }
    }

    fn sign(&self, ask: &Value) -> String {
        tell(self.port, "/__sign", ask)["jwt"].as_str().unwrap().to_owned()
    }

    fn login(&self, mount: &str, role: &str, jwt: &str) -> (u16, Value) {
        self.stand.login(mount, &json!({"role": role, "jwt": jwt}))
    }

    /// Refused with the method's one text, and this cause in the record.
    fn refused(&self, mount: &str, (what, role, cause): (&str, &str, &str), jwt: &str) {
        let told = if mount == "gcp" { "invalid GCP login" } else { "invalid Azure login" };
        let before = self.stand.causes().get(cause).copied().unwrap_or_default();
        assert_eq!(self.login(mount, role, jwt), (400, json!({"errors": [told]})), "{mount}: {what}");
        let causes = self.stand.causes();
        assert_eq!(causes.get(cause).copied().unwrap_or_default(), before + 1, "{mount}: {what}: {cause} {causes:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "tokens are of this very moment")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn gce_claims(role: &str) -> Value {
    json!({"iss": "https://accounts.google.com", "aud": format!("{AUDIENCE}/{role}"), "sub": "109876543210987654321",
           "azp": "109876543210987654321", "email": EMAIL, "email_verified": true, "iat": now(), "exp": now() + 3600,
           "google": {"compute_engine": {"project_id": "project-1", "zone": "europe-west1-b", "instance_id": "4242424242"}}})
}

fn azure_claims() -> Value {
    json!({"iss": format!("https://sts.windows.net/{TENANT}/"), "aud": RESOURCE, "tid": TENANT, "oid": OBJECT, "sub": OBJECT,
           "idtyp": "app", "iat": now(), "nbf": now(), "exp": now() + 86400, "xms_mirid": MACHINE, "xms_az_rid": MACHINE})
}

/// With `name` otherwise: null takes it away.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

#[test]
fn googles_and_microsofts_libraries_log_in_and_so_does_our_client() {
    let clouds = Clouds::start();
    let gce = clouds.vendors.ask(&json!({"op": "gce", "audience": format!("{AUDIENCE}/web")}));
    let account = tell(clouds.port, "/__account", &Value::Null);
    let claims = json!({"sub": EMAIL, "aud": format!("{AUDIENCE}/signer"), "exp": now() + 600});
    let signed =
        clouds.vendors.ask(&json!({"op": "account", "key": account["key"], "kid": account["kid"], "claims": claims}));
    let azure = clouds.vendors.ask(&json!({"op": "azure", "resource": RESOURCE}));
    for (mount, role, jwt, proof) in [
        ("gcp", "web", &gce, "gcp gce sub=109876543210987654321 project=project-1 instance=4242424242 kid=key-1"),
        ("gcp", "signer", &signed, "gcp iam sub=web@project-1.iam.gserviceaccount.com kid=account-key"),
        (
            "azure",
            "web",
            &azure,
            "azure tid=aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb oid=cccccccc-0000-1111-2222-dddddddddddd rid=/subscriptions/",
        ),
        ("azure", "machine", &azure, "azure tid=aaaaaaaa"),
    ] {
        let (status, answer) = clouds.login(mount, role, jwt["jwt"].as_str().unwrap());
        assert_eq!(status, 200, "{mount} {role}: {answer} {:?}", clouds.stand.causes());
        assert!(clouds.stand.last_proof().starts_with(proof), "{}", clouds.stand.last_proof());
        let lease = answer["auth"]["lease_duration"].as_u64().unwrap();
        assert!(lease <= if role == "signer" { 600 } else { 86400 }, "it ends with what was shown");
    }
    // another key is found when it is asked for, and counts
    tell(clouds.port, "/__rotate", &json!({}));
    let metadata = format!("http://127.0.0.1:{}", clouds.port);
    for arguments in [
        ["gcp", "--role", "web", "--audience", AUDIENCE, "--metadata", &metadata],
        ["azure", "--role", "web", "--resource", RESOURCE, "--metadata", &metadata],
    ] {
        // keys are fetched no sooner than ten seconds after the last time
        let printed = in_the_end(Duration::from_secs(30), || strongroom_login(&clouds.stand, &arguments, &[]).ok());
        let shows = Shows { token: Some(&printed), ..Shows::default() };
        let (status, looked) = clouds.stand.ask("GET", "auth/token/lookup-self", &Value::Null, shows);
        assert_eq!((status, &looked["data"]["policies"]), (200, &json!(["app", "default"])), "{arguments:?}");
    }
    for login in [
        format!("method = \"gcp\"\nrole = \"web\"\naudience = \"{AUDIENCE}\"\nurl = \"{metadata}\""),
        format!("method = \"azure\"\nrole = \"web\"\nresource = \"{RESOURCE}\"\nurl = \"{metadata}\""),
    ] {
        assert_eq!(agent_login(&clouds.stand, &login), json!(["app", "default"]), "{login}");
    }
}

#[test]
fn a_token_of_googles_that_is_not_for_us_and_of_this_instance_is_refused() {
    let clouds = Clouds::start();
    let good = || gce_claims("web");
    assert_eq!(clouds.login("gcp", "web", &clouds.sign(&json!({"claims": good()}))).0, 200);
    let compute = |name: &str, value: Value| {
        with(good(), "google", json!({"compute_engine": with(good()["google"]["compute_engine"].clone(), name, value)}))
    };
    for (what, role, claims, cause) in [
        (
            "another server's audience",
            "web",
            with(good(), "aud", json!("https://other.example/gcp/web")),
            "GCP_AUDIENCE_OTHER",
        ),
        (
            "another role's audience",
            "web",
            with(good(), "aud", json!(format!("{AUDIENCE}/other"))),
            "GCP_AUDIENCE_OTHER",
        ),
        (
            "an audience in a list with others",
            "web",
            with(good(), "aud", json!([format!("{AUDIENCE}/web"), "x"])),
            "GCP_AUDIENCE_OTHER",
        ),
        ("no audience", "web", with(good(), "aud", Value::Null), "GCP_AUDIENCE_OTHER"),
        (
            "another issuer",
            "web",
            with(good(), "iss", json!("https://accounts.google.com.evil.example")),
            "GCP_ISSUER_OTHER",
        ),
        (
            "a service account as issuer, with a forged instance",
            "web",
            with(good(), "iss", json!(EMAIL)),
            "GCP_ISSUER_OTHER",
        ),
        ("no issuer", "web", with(good(), "iss", Value::Null), "GCP_ISSUER_OTHER"),
        ("expired", "web", with(good(), "exp", json!(now() - 1)), "JWT_EXPIRED"),
        ("no end", "web", with(good(), "exp", Value::Null), "JWT_EXP_MISSING"),
        ("an end that is a text", "web", with(good(), "exp", json!("9999999999")), "JWT_CLAIMS_MALFORMED"),
        ("not yet", "web", with(good(), "nbf", json!(now() + 600)), "JWT_NOT_YET_VALID"),
        ("issued in time to come", "web", with(good(), "iat", json!(now() + 600)), "JWT_ISSUED_IN_FUTURE"),
        ("issued long ago", "web", with(good(), "iat", json!(now() - 4000)), "GCP_TOO_OLD"),
        ("issued never", "web", with(good(), "iat", Value::Null), "GCP_TOO_OLD"),
        ("no instance in it", "web", with(good(), "google", Value::Null), "GCP_INSTANCE_MISSING"),
        ("another project", "web", compute("project_id", json!("project-9")), "GCP_PROJECT_OTHER"),
        ("another region", "web", compute("zone", json!("europe-west2-b")), "GCP_ZONE_OTHER"),
        ("a project that is no text", "web", compute("project_id", json!(["project-1"])), "GCP_INSTANCE_MISSING"),
        (
            "an address that nobody has verified",
            "web",
            with(good(), "email_verified", json!("true")),
            "GCP_SERVICE_ACCOUNT_OTHER",
        ),
        (
            "another address",
            "web",
            with(good(), "email", json!("web@project-2.iam.gserviceaccount.com")),
            "GCP_SERVICE_ACCOUNT_OTHER",
        ),
        (
            "an account that was made again since it logged in",
            "web",
            with(good(), "sub", json!("100000000000000000001")),
            "GCP_SERVICE_ACCOUNT_MADE_AGAIN",
        ),
        ("a subject that is no id", "web", with(good(), "sub", json!("web")), "GCP_SUBJECT_OTHER"),
        ("a role of another project", "other", gce_claims("other"), "GCP_PROJECT_OTHER"),
        ("a role of another zone", "zone", gce_claims("zone"), "GCP_ZONE_OTHER"),
        (
            "an account that was made again under its address",
            "account",
            gce_claims("account"),
            "GCP_SERVICE_ACCOUNT_OTHER",
        ),
        ("an instance that was made again under its name", "instance", gce_claims("instance"), "GCP_INSTANCE_OTHER"),
        ("no such role", "nobody", gce_claims("nobody"), "GCP_ROLE_UNKNOWN"),
        ("an instance's token for an account's role", "signer", gce_claims("signer"), "GCP_SERVICE_ACCOUNT_OTHER"),
    ] {
        clouds.refused("gcp", (what, role, cause), &clouds.sign(&json!({"claims": claims})));
    }
    forged(&clouds, "gcp", "web", &good());
    // who writes the role again takes the account as it is now only where that is said
    let again = clouds.sign(&json!({"claims": with(good(), "sub", json!("100000000000000000001"))}));
    clouds.stand.done("POST", "auth/gcp/role/web", json!({"bound_service_accounts": [EMAIL]}));
    clouds.refused("gcp", ("the role was written again", "web", "GCP_SERVICE_ACCOUNT_MADE_AGAIN"), &again);
    clouds.stand.done("POST", "auth/gcp/role/web", json!({"forget_pins": true}));
    assert_eq!(clouds.login("gcp", "web", &again).0, 200);
}

#[test]
fn what_a_service_account_signs_is_looked_at_by_its_own_keys_and_for_fifteen_minutes() {
    let clouds = Clouds::start();
    let good = || json!({"sub": EMAIL, "aud": format!("{AUDIENCE}/signer"), "exp": now() + 600});
    let sign = |claims: &Value, by: &str| clouds.sign(&json!({"claims": claims, "by": by}));
    assert_eq!(clouds.login("gcp", "signer", &sign(&good(), "account")).0, 200);
    for (what, role, claims, by, cause) in [
        ("Google's key under an account's name", "signer", good(), "cloud", "JWT_KEY_UNKNOWN"),
        (
            "an account that the role does not name",
            "signer",
            with(good(), "sub", json!("x@project-9.iam.gserviceaccount.com")),
            "account",
            "GCP_SERVICE_ACCOUNT_OTHER",
        ),
        (
            "a path for an account",
            "signer",
            with(good(), "sub", json!("../jwks")),
            "account",
            "GCP_SERVICE_ACCOUNT_OTHER",
        ),
        ("no account", "signer", with(good(), "sub", Value::Null), "account", "GCP_SERVICE_ACCOUNT_OTHER"),
        (
            "another issuer",
            "signer",
            with(good(), "iss", json!("https://accounts.google.com")),
            "account",
            "GCP_SUBJECT_OTHER",
        ),
        ("for too long", "signer", with(good(), "exp", json!(now() + 1000)), "account", "GCP_TOO_LONG"),
        ("over", "signer", with(good(), "exp", json!(now() - 1)), "account", "JWT_EXPIRED"),
        ("another audience", "signer", with(good(), "aud", json!("vault/signer")), "account", "GCP_AUDIENCE_OTHER"),
        // CVE-2020-16251: an account's own signature over an instance that it made up
        ("an account's signature over an instance", "web", gce_claims("web"), "account", "JWT_KEY_UNKNOWN"),
    ] {
        clouds.refused("gcp", (what, role, cause), &sign(&claims, by));
    }
    let forged = clouds.sign(&json!({"claims": gce_claims("web"), "by": "account", "header": {"kid": "key-1"}}));
    clouds.refused("gcp", ("the same, under the name of Google's key", "web", "JWT_SIGNATURE_WRONG"), &forged);
}

#[test]
fn a_token_of_microsofts_that_is_no_managed_identitys_of_this_tenant_is_refused() {
    let clouds = Clouds::start();
    let good = azure_claims;
    assert_eq!(clouds.login("azure", "web", &clouds.sign(&json!({"claims": good()}))).0, 200);
    let two = with(good(), "iss", json!(format!("https://login.microsoftonline.com/{TENANT}/v2.0")));
    assert_eq!(clouds.login("azure", "web", &clouds.sign(&json!({"claims": two}))).0, 200, "version 2");
    for (what, role, claims, cause) in [
        (
            "another resource",
            "web",
            with(good(), "aud", json!("https://management.azure.com/")),
            "AZURE_AUDIENCE_OTHER",
        ),
        (
            "a resource with a slash more",
            "web",
            with(good(), "aud", json!(format!("{RESOURCE}/"))),
            "AZURE_AUDIENCE_OTHER",
        ),
        ("two resources", "web", with(good(), "aud", json!([RESOURCE, "x"])), "AZURE_AUDIENCE_OTHER"),
        ("another tenant", "web", with(good(), "tid", json!(OBJECT)), "AZURE_TENANT_OTHER"),
        ("no tenant", "web", with(good(), "tid", Value::Null), "AZURE_TENANT_OTHER"),
        (
            "another tenant's issuer",
            "web",
            with(good(), "iss", json!(format!("https://sts.windows.net/{OBJECT}/"))),
            "AZURE_ISSUER_OTHER",
        ),
        (
            "a look-alike issuer",
            "web",
            with(good(), "iss", json!(format!("https://sts.windows.net.evil.example/{TENANT}/"))),
            "AZURE_ISSUER_OTHER",
        ),
        ("another identity", "web", with(good(), "oid", json!(TENANT)), "AZURE_OBJECT_OTHER"),
        ("no identity", "web", with(good(), "oid", Value::Null), "AZURE_OBJECT_OTHER"),
        ("an application with a secret", "web", with(good(), "xms_mirid", Value::Null), "AZURE_IDENTITY_MISSING"),
        ("a person", "web", with(good(), "idtyp", json!("user")), "AZURE_IDENTITY_MISSING"),
        ("an identity's id that is none", "web", with(good(), "xms_mirid", json!("web")), "AZURE_IDENTITY_MISSING"),
        (
            "an identity that is lent, and tells no place",
            "web",
            with(
                with(
                    good(),
                    "xms_mirid",
                    json!(MACHINE.replace("Compute/virtualMachines", "ManagedIdentity/userAssignedIdentities")),
                ),
                "xms_az_rid",
                Value::Null,
            ),
            "AZURE_PLACE_MISSING",
        ),
        ("a place that is none", "web", with(good(), "xms_az_rid", json!("/subscriptions/x")), "AZURE_RESOURCE_OTHER"),
        (
            "a place that climbs",
            "machine",
            with(good(), "xms_az_rid", json!(MACHINE.replace("Microsoft.Compute", ".."))),
            "AZURE_RESOURCE_OTHER",
        ),
        (
            "another resource group",
            "web",
            with(good(), "xms_az_rid", json!(MACHINE.replace("Prod", "test"))),
            "AZURE_GROUP_OTHER",
        ),
        ("old, though it has not ended", "web", with(good(), "iat", json!(now() - 700)), "AZURE_TOO_OLD"),
        ("issued never", "web", with(good(), "iat", Value::Null), "AZURE_TOO_OLD"),
        ("expired", "web", with(good(), "exp", json!(now() - 1)), "JWT_EXPIRED"),
        ("not yet", "web", with(good(), "nbf", json!(now() + 600)), "JWT_NOT_YET_VALID"),
        ("a role of another identity", "principal", good(), "AZURE_OBJECT_OTHER"),
        ("a role of another subscription", "subscription", good(), "AZURE_SUBSCRIPTION_OTHER"),
        ("a role of another group", "group", good(), "AZURE_GROUP_OTHER"),
        ("a role of another machine", "resource", good(), "AZURE_RESOURCE_OTHER"),
        ("no such role", "nobody", good(), "AZURE_ROLE_UNKNOWN"),
    ] {
        clouds.refused("azure", (what, role, cause), &clouds.sign(&json!({"claims": claims})));
    }
    forged(&clouds, "azure", "web", &good());
    // what Vault's clients say beside the token counts for nothing
    let beside = json!({"role": "subscription", "jwt": clouds.sign(&json!({"claims": good()})), "subscription_id": TENANT,
                        "resource_group_name": "test", "vm_name": "api", "resource_id": MACHINE.replace("web", "api")});
    assert_eq!(clouds.stand.login("azure", &beside).0, 400);
}

/// What nobody but the cloud could have signed, and it has not.
fn forged(clouds: &Clouds, mount: &str, role: &str, claims: &Value) {
    for (what, ask, cause) in [
        ("somebody's key under the cloud's name", json!({"by": "stranger"}), "JWT_SIGNATURE_WRONG"),
        ("a key that nobody knows", json!({"by": "stranger", "header": {"kid": "key-9"}}), "JWT_KEY_UNKNOWN"),
        ("a key id that climbs", json!({"by": "stranger", "header": {"kid": "../../dev/null"}}), "JWT_KEY_UNKNOWN"),
        ("a key in the token", json!({"by": "embedded"}), "JWT_HEADER_FORBIDDEN"),
        (
            "an address of keys in the token",
            json!({"by": "stranger", "header": {"jku": "https://evil.example/jwks"}}),
            "JWT_HEADER_FORBIDDEN",
        ),
        ("a certificate in the token", json!({"by": "stranger", "header": {"x5c": ["MII"]}}), "JWT_HEADER_FORBIDDEN"),
        ("no signature", json!({"by": "none"}), "JWT_ALGORITHM_OTHER"),
        ("the public key as a secret", json!({"by": "hmac"}), "JWT_ALGORITHM_OTHER"),
        ("another algorithm", json!({"header": {"alg": "RS512"}}), "JWT_ALGORITHM_OTHER"),
        ("an access token of another kind", json!({"header": {"typ": "at+jwt"}}), "JWT_TYPE_OTHER"),
    ] {
        let mut ask = ask;
        ask["claims"] = claims.clone();
        clouds.refused(mount, (what, role, cause), &clouds.sign(&ask));
    }
    let good = clouds.sign(&json!({"claims": claims}));
    clouds.refused(mount, ("no token", role, "JWT_MALFORMED"), "x.y");
    clouds.refused(mount, ("two tokens", role, "JWT_MALFORMED"), &format!("{good}.{good}"));
    let (head, tail) = good.split_at(good.len() / 2);
    let altered = format!("{head}{}{}", if tail.starts_with('A') { 'B' } else { 'A' }, &tail[1..]);
    assert_eq!(clouds.login(mount, role, &altered).0, 400, "{mount}: altered");
}

#[test]
fn who_may_not_say_whose_keys_count_does_not_and_without_keys_nobody_gets_in() {
    let clouds = Clouds::start();
    let stand = &clouds.stand;
    let policy = "path \"auth/*\" { capabilities = [\"create\", \"read\", \"update\", \"delete\", \"list\"] }";
    stand.done("POST", "sys/policies/acl/operator", json!({"policy": policy}));
    let made = stand.done("POST", "auth/token/create", json!({"policies": ["operator"]}));
    let shows = Shows { token: made["auth"]["client_token"].as_str(), ..Shows::default() };
    for mount in ["gcp", "azure"] {
        let evil = json!({"jwks_url": "https://evil.example/jwks"});
        assert_eq!(stand.ask("POST", &format!("auth/{mount}/config"), &evil, shows).0, 403, "it takes sudo");
    }
    for (path, role) in [
        ("gcp/role/x", json!({"type": "gce"})),
        ("gcp/role/x", json!({"type": "gce", "bound_projects": ["a"], "bound_labels": ["a:b"]})),
        ("gcp/role/x", json!({"type": "iam", "bound_service_accounts": ["*"]})),
        ("gcp/role/x", json!({"type": "iam", "bound_service_accounts": [EMAIL], "max_jwt_exp": "1h"})),
        ("gcp/role/web", json!({"type": "iam"})),
        ("azure/role/x", json!({})),
        ("azure/role/x", json!({"bound_resource_groups": ["prod"]})),
        ("azure/role/x", json!({"bound_service_principal_ids": ["*"]})),
        ("azure/role/x", json!({"bound_resource_ids": ["*"]})),
        ("azure/role/x", json!({"bound_service_principal_ids": [OBJECT], "bound_locations": ["eu"]})),
    ] {
        assert_eq!(stand.ask("POST", &format!("auth/{path}"), &role, shows).0, 400, "{path} {role}");
    }
    tell(clouds.port, "/__down", &json!({"keys": true}));
    for (mount, claims) in [("gcp", gce_claims("web")), ("azure", azure_claims())] {
        let (status, answer) = clouds.login(mount, "web", &clouds.sign(&json!({"claims": claims})));
        assert!(status == 503 && answer["auth"].is_null(), "{mount}: {status} {answer}");
    }
}
