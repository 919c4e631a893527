"""hvac against the JWT method: what Vault's users have written goes on. Arguments: URL, CA, token file, key file, JWT file."""

import sys

import hvac

url, ca, token, key, jwt = sys.argv[1:]
read = lambda path: open(path, encoding="utf-8").read().strip()
root = hvac.Client(url=url, token=read(token), verify=ca)
checks = 0


def check(what, holds):
    global checks
    checks += 1
    if not holds:
        sys.exit(f"{what} does not hold")


root.sys.enable_auth_method("jwt", path="ci")
root.auth.jwt.configure(jwt_validation_pubkeys=read(key), bound_issuer="https://issuer.example", path="ci")
config = root.auth.jwt.read_config(path="ci")["data"]
check("the configuration", config["bound_issuer"] == "https://issuer.example" and len(config["jwt_validation_pubkeys"]) == 1)
role = dict(user_claim="sub", allowed_redirect_uris=[], role_type="jwt", bound_audiences=["vault"], token_policies=["ci"], path="ci")
try:
    root.auth.jwt.create_role("wide", **role)
    check("a role that binds nothing is refused", False)
except hvac.exceptions.InvalidRequest as refused:
    check("a role that binds nothing is refused", "bound_claims" in str(refused))
root.auth.jwt.create_role("app", bound_claims={"project": ["web", "api"], "protected": True}, **role)
shown = root.auth.jwt.read_role("app", path="ci")["data"]
check("the role", shown["role_type"] == "jwt" and shown["bound_claims"]["protected"] == [True])
check("the list", root.auth.jwt.list_roles(path="ci")["data"]["keys"] == ["app"])
nobody = hvac.Client(url=url, verify=ca)
answer = nobody.auth.jwt.jwt_login("app", read(jwt), path="ci")
check("the login", answer["auth"]["metadata"] == {"role": "app"} and answer["auth"]["policies"] == ["ci", "default"])
check("the token", nobody.is_authenticated() and nobody.secrets.kv.v2.read_secret("app", raise_on_deleted_version=True)["data"]["data"]["password"] == "the-secret")
try:
    hvac.Client(url=url, verify=ca).auth.jwt.jwt_login("app", read(jwt) + "x", path="ci")
    check("an altered token", False)
except hvac.exceptions.InvalidRequest as refused:
    check("an altered token", "invalid role or token" in str(refused))
root.auth.jwt.delete_role("app", path="ci")
try:
    nobody.auth.jwt.jwt_login("app", read(jwt), path="ci")
    check("a role that is gone", False)
except hvac.exceptions.InvalidRequest:
    check("a role that is gone", True)
print(f"hvac and JWT: {checks} checks done")
