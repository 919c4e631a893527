"""hvac against the Kubernetes method. Arguments: URL, then files: root token, API server's URL, CA, reviewer's token, JWT."""

import sys

import hvac

url = sys.argv[1]
token, host, ca, reviewer, jwt = (open(path, encoding="utf-8").read().strip() for path in sys.argv[2:])
root = hvac.Client(url=url, token=token)
checks = 0


def check(what, holds):
    global checks
    checks += 1
    if not holds:
        sys.exit(f"{what} does not hold")


root.sys.enable_auth_method("kubernetes", path="stock")
method = root.auth.kubernetes
method.configure(kubernetes_host=host, kubernetes_ca_cert=ca, token_reviewer_jwt=reviewer, mount_point="stock")
config = method.read_config(mount_point="stock")
config = config.get("data", config)
check("the configuration", config["kubernetes_host"] == host and config["kubernetes_ca_cert"] == ca)
check("the reviewer is not told", reviewer not in str(config))
role = dict(bound_service_account_names=["web"], bound_service_account_namespaces=["stock"], ttl="10m", policies=["app"])
try:
    # hvac knows no audience, and a role must have one
    method.create_role("web", mount_point="stock", **role)
    check("a role without an audience is refused", False)
except hvac.exceptions.InvalidRequest as refused:
    check("a role without an audience is refused", "audience" in str(refused))
root.write_data("auth/stock/role/web", data=dict(role, audience="strongroom.test"))
method.create_role("web", mount_point="stock", **role)
shown = method.read_role("web", mount_point="stock")
shown = shown.get("data", shown)
check("the role", shown["audience"] == "strongroom.test" and shown["token_ttl"] == 600)
listed = method.list_roles(mount_point="stock")
check("the list", listed.get("data", listed)["keys"] == ["web"])
nobody = hvac.Client(url=url)
answer = nobody.auth.kubernetes.login("web", jwt, mount_point="stock")
check("the login", answer["auth"]["metadata"]["service_account_name"] == "web" and "app" in answer["auth"]["policies"])
check("the token", nobody.is_authenticated() and nobody.secrets.kv.v2.read_secret("app", raise_on_deleted_version=True)["data"]["data"]["password"] == "p-1")
# within the signature: what ends it may be the same already, and holds bits that mean nothing
altered = jwt[:-20] + ("B" if jwt[-20] == "A" else "A") + jwt[-19:]
try:
    hvac.Client(url=url).auth.kubernetes.login("web", altered, mount_point="stock")
    check("an altered token", False)
except hvac.exceptions.InvalidRequest:
    check("an altered token", True)
method.delete_role("web", mount_point="stock")
try:
    hvac.Client(url=url).auth.kubernetes.login("web", jwt, mount_point="stock")
    check("a role that is gone", False)
except hvac.exceptions.InvalidRequest:
    check("a role that is gone", True)
print(f"hvac and Kubernetes: {checks} checks done")
