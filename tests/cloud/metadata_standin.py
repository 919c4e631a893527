"""A stand-in for the metadata services of EC2 (IMDSv2 alone), ECS and EKS, Google's Compute Engine and Azure, and for the key
sets of Google and Microsoft. No cloud was ever asked.

`POST /__set` says who is there; `POST /__rotate` makes another key, `POST /__sign` signs what a test wants, right or wrong,
`POST /__log` tells what came in.
"""

import base64
import hmac
import http.server
import json
import secrets
import sys
import threading
import time
import urllib.parse

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

STATE = {"aws": {}, "google": {}, "azure": {}}
LOG = []
SESSIONS = {}
KEYS = []
LOCK = threading.Lock()


def made():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def rotate():
    KEYS.append((f"key-{len(KEYS) + 1}", made()))


# of a service account; of somebody whom nobody knows
ACCOUNT = ("account-key", made())
STRANGER = made()
DOWN = {"keys": False}


def jwks(keys):
    out = []
    for kid, key in keys:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        out.append({**public, "kid": kid, "use": "sig", "alg": "RS256"})
    return {"keys": out}


def pem(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def signed(claims, by="cloud", header=None):
    """By the cloud's current key; or as somebody would who has none."""
    kid, key = ACCOUNT if by == "account" else KEYS[-1]
    header = {"typ": "JWT", "kid": kid, **(header or {})}
    header = {name: value for name, value in header.items() if value is not None}
    if by in ("none", "hmac"):
        header["alg"] = "none" if by == "none" else "HS256"
        text = [json.dumps(header).encode(), json.dumps(claims).encode()]
        text = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in text)
        # the public key as a shared secret
        mac = hmac.digest(pem(key), text.encode(), "sha256") if by == "hmac" else b""
        return text + "." + base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    if by == "stranger":
        key = STRANGER
    if by == "embedded":
        key = STRANGER
        header["jwk"] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    algorithm = header.pop("alg", "RS256")
    return jwt.encode(claims, key, algorithm=algorithm, headers=header)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, data, media_type="application/json", **headers):
        data = data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
        with LOCK:
            LOG.append({"method": self.command, "path": self.path, "status": status})
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def take(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/__set":
            STATE.update(json.loads(body))
            return self.answer(200, {})
        if url.path == "/__log":
            with LOCK:
                told, LOG[:] = list(LOG), []
            return self.answer(200, told)
        if url.path == "/__rotate":
            rotate()
            if json.loads(body or b"{}").get("drop"):
                del KEYS[:-1]
            return self.answer(200, {"kid": KEYS[-1][0]})
        if url.path == "/__sign":
            # what a test wants signed, right or wrong
            ask = json.loads(body)
            return self.answer(200, {"jwt": signed(ask["claims"], ask.get("by", "cloud"), ask.get("header"))})
        if url.path == "/__account":
            form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            return self.answer(200, {"kid": ACCOUNT[0], "key": ACCOUNT[1].private_bytes(*form).decode()})
        if url.path == "/__down":
            DOWN.update(json.loads(body))
            return self.answer(200, {})
        if url.path == "/jwks" or url.path.startswith("/accounts/"):
            if DOWN["keys"]:
                return self.answer(500, "")
            if url.path == "/jwks":
                return self.answer(200, jwks(KEYS))
            known = url.path == "/accounts/" + STATE["google"].get("email", "")
            return self.answer(200, jwks([ACCOUNT])) if known else self.answer(404, "")
        if url.path.startswith("/latest/"):
            return self.ec2(url.path)
        if url.path == "/v1/credentials":
            return self.container()
        if url.path.startswith("/computeMetadata/") or url.path == "/":
            return self.google(url.path, query)
        if url.path == "/metadata/identity/oauth2/token":
            return self.azure(query)
        self.answer(404, "")

    do_GET = do_POST = do_PUT = take

    def ec2(self, path):
        if path == "/latest/api/token":
            seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            # a proxy or an application that forwards is no caller of IMDSv2
            if self.command != "PUT" or self.headers.get("X-Forwarded-For") or not seconds.isdigit():
                return self.answer(403 if self.headers.get("X-Forwarded-For") else 400, "")
            if not 1 <= int(seconds) <= 21600:
                return self.answer(400, "")
            token = secrets.token_urlsafe(32)
            SESSIONS[token] = time.time() + int(seconds)
            return self.answer(200, token, "text/plain", X_aws_ec2_metadata_token_ttl_seconds=seconds)
        if SESSIONS.get(self.headers.get("X-aws-ec2-metadata-token", ""), 0) < time.time():
            return self.answer(401, "")
        aws = STATE["aws"]
        if path == "/latest/meta-data/placement/region":
            return self.answer(200, aws["region"], "text/plain")
        if path == "/latest/meta-data/iam/security-credentials/":
            return self.answer(200, aws["role"], "text/plain")
        if path == "/latest/meta-data/iam/security-credentials/" + aws["role"]:
            return self.answer(200, self.credentials())
        self.answer(404, "")

    def credentials(self):
        aws = STATE["aws"]
        expiration = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6 * 3600))
        return {
            "Code": "Success",
            "LastUpdated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "Type": "AWS-HMAC",
            "AccessKeyId": aws["key"],
            "SecretAccessKey": aws["secret"],
            "Token": aws["token"],
            "Expiration": expiration,
        }

    def container(self):
        if self.headers.get("Authorization") != "pod-identity-token":
            return self.answer(401, "")
        self.answer(200, self.credentials())

    def google(self, path, query):
        flavor = {"Metadata_Flavor": "Google"}
        if path == "/":
            return self.answer(200, "", "text/plain", **flavor)
        if self.headers.get("Metadata-Flavor") != "Google" or self.headers.get("X-Forwarded-For"):
            return self.answer(403, "", "text/plain", **flavor)
        google = STATE["google"]
        if path.endswith("/identity"):
            now = int(time.time())
            claims = {
                "iss": "https://accounts.google.com",
                "aud": query["audience"],
                "azp": google["sub"],
                "sub": google["sub"],
                "email": google["email"],
                "email_verified": True,
                "iat": now,
                "exp": now + 3600,
            }
            if query.get("format") == "full":
                claims["google"] = {"compute_engine": google["compute_engine"]}
            return self.answer(200, signed(claims), "text/html", **flavor)
        if path.endswith("/service-accounts/default/"):
            about = {"email": google["email"], "aliases": ["default"], "scopes": []}
            return self.answer(200, about, **flavor)
        self.answer(404, "", "text/plain", **flavor)

    def azure(self, query):
        if self.headers.get("Metadata", "").lower() != "true" or self.headers.get("X-Forwarded-For"):
            return self.answer(400, {"error": "invalid_request", "error_description": "Required metadata header not specified"})
        azure, now = STATE["azure"], int(time.time())
        claims = {
            "aud": query["resource"],
            "iss": f"https://sts.windows.net/{azure['tid']}/",
            "iat": now,
            "nbf": now,
            "exp": now + 86400,
            "appid": azure["appid"],
            "idtyp": "app",
            "oid": azure["oid"],
            "sub": azure["oid"],
            "tid": azure["tid"],
            "ver": "1.0",
            "xms_mirid": azure["xms_mirid"],
            "xms_az_rid": azure["xms_az_rid"],
        }
        token = {
            "access_token": signed(claims),
            "client_id": azure["appid"],
            "expires_in": "86399",
            "expires_on": str(now + 86400),
            "ext_expires_in": "86399",
            "not_before": str(now),
            "resource": query["resource"],
            "token_type": "Bearer",
        }
        self.answer(200, token)


if __name__ == "__main__":
    rotate()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(json.dumps({"port": server.server_port}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
