"""hvac, unmodified, against a development server: address, CA, file with the root token.

Prints how many checks were made; the caller knows how many there are.
"""

import base64
import sys
import tempfile

import hvac
from hvac import exceptions

URL, CA, TOKEN_FILE = sys.argv[1:4]
CHECKS = 0


def check(holds, what):
    global CHECKS
    CHECKS += 1
    if not holds:
        sys.exit(f"check {CHECKS} failed: {what!r}")


def refused(kind, act, *args, **kwargs):
    try:
        found = act(*args, **kwargs)
    except kind as error:
        check(True, error)
        return error
    check(False, (act, args, found))


def b64(text):
    return base64.b64encode(text.encode()).decode()


def client(token=None):
    return hvac.Client(url=URL, token=token, verify=CA)


root = client(open(TOKEN_FILE).read().strip())


def system():
    check(root.is_authenticated(), "root")
    check(not client("a-token-that-is-none-of-ours").is_authenticated(), "nobody")
    check(root.sys.is_initialized() and not root.sys.is_sealed(), "seal")
    check(root.sys.read_health_status(method="GET")["initialized"], "health")
    check(root.sys.read_health_status(method="HEAD").status_code == 200, "health by HEAD")
    check(root.sys.read_leader_status()["ha_enabled"] is False, "leader")
    mounts = root.sys.list_mounted_secrets_engines()["data"]
    check(mounts["secret/"]["options"]["version"] == "2", mounts)
    root.sys.enable_secrets_engine("kv", path="old", options={"version": "1"})
    root.sys.tune_mount_configuration("old", default_lease_ttl="1h", max_lease_ttl="2h")
    check(root.sys.read_mount_configuration("old")["data"]["default_lease_ttl"] == 3600, "tuned")
    root.secrets.kv.v1.create_or_update_secret("a/b", secret={"pw": "x"}, mount_point="old")
    root.sys.move_backend("old", "older")
    check(root.secrets.kv.v1.read_secret("a/b", mount_point="older")["data"] == {"pw": "x"}, "moved with its data")
    check(root.secrets.kv.v1.list_secrets("a", mount_point="older")["data"]["keys"] == ["b"], "listed")
    root.secrets.kv.v1.delete_secret("a/b", mount_point="older")
    refused(exceptions.InvalidPath, root.secrets.kv.v1.read_secret, "a/b", mount_point="older")
    root.sys.disable_secrets_engine("older")
    check("older/" not in root.sys.list_mounted_secrets_engines()["data"], "unmounted")
    refused(exceptions.InvalidRequest, root.sys.enable_secrets_engine, "no-such-engine")


def policies():
    text = 'path "secret/data/app/*" { capabilities = ["read"] }\npath "secret/metadata/app/*" { capabilities = ["list"] }'
    root.sys.create_or_update_policy("app", policy=text)
    check(root.sys.read_policy("app")["data"]["rules"] == text, "old form")
    check("app" in root.sys.list_policies()["data"]["policies"], "listed")
    refused(exceptions.InvalidRequest, root.sys.create_or_update_policy, "bad", policy='path "x" { capabilities = ["fly"] }')
    made = root.auth.token.create(policies=["app"], ttl="1h")["auth"]
    user = client(made["client_token"])
    check(user.sys.get_capabilities(["secret/data/app/x"])["capabilities"] == ["read"], "capabilities")
    check(user.sys.get_capabilities(["secret/data/other"])["capabilities"] == ["deny"], "none")
    root.secrets.kv.v2.create_or_update_secret("app/x", secret={"k": "v"})
    check(user.secrets.kv.v2.read_secret_version("app/x", raise_on_deleted_version=True)["data"]["data"] == {"k": "v"}, "read")
    refused(exceptions.Forbidden, user.secrets.kv.v2.create_or_update_secret, "app/x", secret={})
    refused(exceptions.Forbidden, user.secrets.kv.v2.read_secret_version, "other", raise_on_deleted_version=True)
    root.sys.delete_policy("app")
    refused(exceptions.Forbidden, user.secrets.kv.v2.read_secret_version, "app/x", raise_on_deleted_version=True)


def versions():
    kv = root.secrets.kv.v2
    for n in (1, 2, 3):
        check(kv.create_or_update_secret("db", secret={"pw": n})["data"]["version"] == n, n)
    refused(exceptions.InvalidRequest, kv.create_or_update_secret, "db", secret={}, cas=1)
    check(kv.create_or_update_secret("db", secret={"pw": 4, "u": "me"}, cas=3)["data"]["version"] == 4, "cas")
    check(kv.patch("db", secret={"pw": 5})["data"]["version"] == 5, "patch")
    read = kv.read_secret_version("db", raise_on_deleted_version=True)["data"]
    check(read["data"] == {"pw": 5, "u": "me"} and read["metadata"]["version"] == 5, read)
    check(kv.read_secret_version("db", version=2, raise_on_deleted_version=True)["data"]["data"] == {"pw": 2}, "older")
    kv.delete_latest_version_of_secret("db")
    refused(exceptions.InvalidPath, kv.read_secret_version, "db", raise_on_deleted_version=True)
    check(kv.read_secret_version("db", raise_on_deleted_version=False)["data"]["metadata"]["deletion_time"], "told")
    kv.undelete_secret_versions("db", versions=[5])
    check(kv.read_secret_version("db", raise_on_deleted_version=True)["data"]["data"]["pw"] == 5, "undeleted")
    kv.delete_secret_versions("db", versions=[1, 2])
    kv.destroy_secret_versions("db", versions=[1])
    kv.update_metadata("db", max_versions=4, custom_metadata={"owner": "me"})
    meta = kv.read_secret_metadata("db")["data"]
    check(meta["custom_metadata"] == {"owner": "me"} and meta["max_versions"] == 4, meta)
    check(kv.list_secrets("")["data"]["keys"] and "db" in kv.list_secrets("")["data"]["keys"], "listed")
    kv.delete_metadata_and_all_versions("db")
    refused(exceptions.InvalidPath, kv.read_secret_metadata, "db")
    kv.configure(max_versions=7)
    check(kv.read_configuration()["data"]["max_versions"] == 7, "configured")


def tokens():
    token = root.auth.token
    made = token.create(ttl="1h", explicit_max_ttl="2h", meta={"for": "test"}, renewable=True, policies=["default"])["auth"]
    check(made["lease_duration"] == 3600 and made["renewable"] and made["token_type"] == "service", made)
    found = token.lookup(made["client_token"])["data"]
    check(found["meta"] == {"for": "test"} and found["explicit_max_ttl"] == 7200 and 3500 < found["ttl"] <= 3600, found)
    check(token.lookup_accessor(made["accessor"])["data"]["accessor"] == made["accessor"], "by accessor")
    user = client(made["client_token"])
    check(user.auth.token.lookup_self()["data"]["accessor"] == made["accessor"], "self")
    check(user.auth.token.renew_self(increment="30m")["auth"]["lease_duration"] <= 3600, "renewed")
    check(made["accessor"] in token.list_accessors()["data"]["keys"], "accessors")
    token.create_or_update_role("job", allowed_policies=["default"], token_period="10m", orphan=True)
    check(token.read_role("job")["data"]["allowed_policies"] == ["default"], "role")
    periodic = token.create(role_name="job")["auth"]
    check(periodic["lease_duration"] == 600, periodic)
    token.revoke_accessor(periodic["accessor"])
    check(not client(periodic["client_token"]).is_authenticated(), "revoked")
    token.revoke(made["client_token"])
    check(not user.is_authenticated(), "revoked by itself")


def approle():
    root.sys.enable_auth_method("approle")
    root.sys.create_or_update_policy("app", policy='path "secret/data/app/*" { capabilities = ["read"] }')
    root.auth.approle.create_or_update_approle("web", token_policies=["app"], secret_id_num_uses=2, token_ttl="20m")
    check(root.auth.approle.list_roles()["data"]["keys"] == ["web"], "roles")
    role_id = root.auth.approle.read_role_id("web")["data"]["role_id"]
    wrapped = root.auth.approle.generate_secret_id("web", metadata={"host": "a"}, wrap_ttl="60s")["wrap_info"]
    check(wrapped["creation_path"] == "auth/approle/role/web/secret-id", wrapped)
    secret = client().sys.unwrap(token=wrapped["token"])["data"]
    check(wrapped["wrapped_accessor"] == secret["secret_id_accessor"], wrapped)
    refused(exceptions.InvalidRequest, client().sys.unwrap, token=wrapped["token"])
    for _ in range(2):
        logged_in = client().auth.approle.login(role_id, secret["secret_id"], use_token=False)["auth"]
        check(logged_in["metadata"]["role_name"] == "web" and logged_in["lease_duration"] == 1200, logged_in)
        app = client(logged_in["client_token"])
        check(app.secrets.kv.v2.read_secret_version("app/x", raise_on_deleted_version=True)["data"]["data"] == {"k": "v"}, "app")
    refused(exceptions.InvalidRequest, client().auth.approle.login, role_id, secret["secret_id"])
    other = root.auth.approle.generate_secret_id("web")["data"]
    check(other["secret_id_accessor"] in root.auth.approle.list_secret_id_accessors("web")["data"]["keys"], "accessors")
    root.auth.approle.destroy_secret_id_accessor("web", other["secret_id_accessor"])
    refused(exceptions.InvalidRequest, client().auth.approle.login, role_id, other["secret_id"])


def userpass():
    root.sys.enable_auth_method("userpass")
    root.auth.userpass.create_or_update_user("alice", "correct horse", policies="app")
    check(client().auth.userpass.login("alice", "correct horse", use_token=False)["auth"]["policies"] == ["app", "default"], "in")
    refused(exceptions.InvalidRequest, client().auth.userpass.login, "alice", "wrong horse")
    check(root.auth.userpass.list_user()["data"]["keys"] == ["alice"], "listed")


def transit():
    root.sys.enable_secrets_engine("transit")
    keys = root.secrets.transit
    keys.create_key("k")
    first = keys.encrypt_data("k", plaintext=b64("hello"))["data"]["ciphertext"]
    check(first.startswith("vault:v1:"), first)
    keys.rotate_key("k")
    check(keys.decrypt_data("k", ciphertext=first)["data"]["plaintext"] == b64("hello"), "older version")
    again = keys.rewrap_data("k", ciphertext=first)["data"]["ciphertext"]
    check(again.startswith("vault:v2:") and keys.decrypt_data("k", ciphertext=again)["data"]["plaintext"] == b64("hello"), again)
    data_key = keys.generate_data_key("k", key_type="plaintext")["data"]
    check(keys.decrypt_data("k", ciphertext=data_key["ciphertext"])["data"]["plaintext"] == data_key["plaintext"], "data key")
    check(keys.read_key("k")["data"]["latest_version"] == 2, "read")
    refused(exceptions.InvalidRequest, keys.decrypt_data, "k", ciphertext="vault:v1:AAAA")
    for kind in ("ed25519", "ecdsa-p256", "rsa-2048"):
        keys.create_key(kind, key_type=kind)
        signature = keys.sign_data(kind, hash_input=b64("hello"))["data"]["signature"]
        check(keys.verify_signed_data(kind, hash_input=b64("hello"), signature=signature)["data"]["valid"], kind)
        check(not keys.verify_signed_data(kind, hash_input=b64("other"), signature=signature)["data"]["valid"], kind)
    check(len(base64.b64decode(keys.generate_random_bytes(n_bytes=32)["data"]["random_bytes"])) == 32, "random")


def wrapping():
    wrapped = root.sys.wrap(payload={"a": "b"}, ttl=60)["wrap_info"]
    check(wrapped["creation_path"] == "sys/wrapping/wrap" and wrapped["ttl"] == 60, wrapped)
    check(client().sys.unwrap(token=wrapped["token"])["data"] == {"a": "b"}, "unwrapped")
    refused(exceptions.InvalidRequest, client().sys.unwrap, token=wrapped["token"])
    other = root.write("cubbyhole/mine", a="b")
    check(other.status_code == 204 and root.read("cubbyhole/mine")["data"] == {"a": "b"}, other)


for part in (system, policies, versions, tokens, approle, userpass, wrapping, transit):
    part()
print(f"hvac {sys.version_info.major}: {CHECKS} checks done")
