"""hvac, unmodified, in namespaces: address, CA, file with the root token.

Prints how many checks were made; the caller knows how many there are.
"""

import sys

import hvac
from hvac import exceptions

URL, CA, TOKEN_FILE = sys.argv[1:4]
CHECKS = 0
ALL = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "patch", "sudo"] }'


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


def client(token, namespace=None):
    return hvac.Client(url=URL, token=token, verify=CA, namespace=namespace)


TOKEN = open(TOKEN_FILE).read().strip()
root = client(TOKEN)

# made, listed, told
made = root.sys.create_namespace("team")["data"]
check(made["path"] == "team/" and len(made["id"]) == 6, made)
check(client(TOKEN, "team").sys.create_namespace("app")["data"]["path"] == "team/app/", "below")
root.sys.create_namespace("other")
check(root.sys.list_namespaces()["data"]["keys"] == ["other/", "team/"], "listed")
check(client(TOKEN, "team").sys.list_namespaces()["data"]["keys"] == ["app/"], "listed below")
refused(exceptions.InvalidRequest, root.sys.create_namespace, "sys")

# the same mount, the same name, another secret
for namespace in ["team", "team/app", "other"]:
    here = client(TOKEN, namespace)
    check(here.is_authenticated(), namespace)
    here.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    here.secrets.kv.v2.create_or_update_secret("db", secret={"in": namespace})
for namespace in ["team", "team/app/", "/other"]:
    found = client(TOKEN, namespace).secrets.kv.v2.read_secret_version("db", raise_on_deleted_version=True)
    check(found["data"]["data"] == {"in": namespace.strip("/")}, found)
refused(exceptions.InvalidPath, root.secrets.kv.v2.read_secret_version, "db", raise_on_deleted_version=True)
by_path = root.read("team/app/secret/data/db")
check(by_path["data"]["data"] == {"in": "team/app"}, by_path)

# policies, logins and tokens of one namespace
team = client(TOKEN, "team")
team.sys.create_or_update_policy("all", ALL)
check(team.sys.read_policy("all")["data"]["rules"] == ALL, "policy")
refused(exceptions.InvalidPath, root.sys.read_policy, "all")
team.sys.enable_auth_method("userpass")
team.auth.userpass.create_or_update_user("ann", password="correct horse", policies=["all"])
ann = client(None, "team")
ann.auth.userpass.login("ann", "correct horse")
check(ann.is_authenticated() and ann.lookup_token()["data"]["namespace_path"] == "team/", "logged in")
check(ann.secrets.kv.v2.read_secret_version("db", raise_on_deleted_version=True)["data"]["data"]["in"] == "team", "own")
below = client(ann.token, "team/app")
check(below.is_authenticated(), "below")
check(below.secrets.kv.v2.read_secret_version("db", raise_on_deleted_version=True)["data"]["data"]["in"] == "team/app", "below")
for namespace in [None, "other", "none"]:
    elsewhere = client(ann.token, namespace)
    check(not elsewhere.is_authenticated(), namespace)
    refused(exceptions.Forbidden, elsewhere.sys.list_mounted_secrets_engines)
refused(exceptions.InvalidPath, client(TOKEN, "none").sys.list_mounted_secrets_engines)

# what is made below by a token of above ends with it
below.sys.create_or_update_policy("all", ALL)
child = below.auth.token.create(policies=["all"])["auth"]
check(child["orphan"] is False, child)
child = client(child["client_token"], "team/app")
check(child.is_authenticated(), "child")
check(not client(child.token, "team").is_authenticated(), "a child above")
ann.auth.token.revoke_self()
check(not child.is_authenticated(), "the child of who has ended")

# keys and wrapping
team.sys.enable_secrets_engine("transit")
team.secrets.transit.create_key("k")
sealed = team.secrets.transit.encrypt_data("k", plaintext="c2VjcmV0")["data"]["ciphertext"]
check(team.secrets.transit.decrypt_data("k", ciphertext=sealed)["data"]["plaintext"] == "c2VjcmV0", "transit")
refused(exceptions.InvalidPath, root.secrets.transit.decrypt_data, "k", ciphertext=sealed)
wrapped = team.sys.wrap({"a": "b"}, ttl=60)["wrap_info"]["token"]
check(root.sys.unwrap(wrapped)["data"] == {"a": "b"}, "unwrapped")

# the root's alone, and the end
check(team.sys.read_health_status(method="GET").status_code == 400, "health")
refused(exceptions.InvalidRequest, root.sys.delete_namespace, "team")
client(TOKEN, "team").sys.delete_namespace("app")
root.sys.delete_namespace("team")
refused(exceptions.InvalidPath, team.sys.list_mounted_secrets_engines)
check(root.sys.list_namespaces()["data"]["keys"] == ["other/"], "listed at the end")
print(f"hvac in namespaces: {CHECKS} checks done")
