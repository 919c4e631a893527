"""A stand-in for AWS STS: GetCallerIdentity alone, on loopback. No AWS was ever asked.

Signatures are verified by AWS's own signing code (botocore), with what AWS is strict about and moto is not: the date, the
credential's scope, unsigned x-amz-* headers, the host. `POST /__set` changes who is known and how it answers, honestly or not;
`GET /__log` tells what came in.
"""

import datetime
import http.server
import json
import sys
import threading
import time
import urllib.parse

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

STATE = {"mode": "honest", "principals": {}, "only_nonce": False}
LOG = []
LOCK = threading.Lock()
HOSTS = ["sts.amazonaws.com", "sts.us-east-1.amazonaws.com", "sts.eu-central-1.amazonaws.com", "sts.cn-north-1.amazonaws.com.cn"]
NS = "https://sts.amazonaws.com/doc/2011-06-15/"


class Refused(Exception):
    pass


def need(is_so, code):
    if not is_so:
        raise Refused(code)


def verified(method, target, headers, body, own_host):
    """The principal that signed this; or why AWS would not know it."""
    names = [name.lower() for name, _ in headers]
    single = dict(zip(names, [value for _, value in headers]))
    need(len(set(names)) == len(names), "InvalidRequest")
    url = urllib.parse.urlsplit(target)
    form = urllib.parse.parse_qs(url.query) if method == "GET" else urllib.parse.parse_qs(body.decode())
    need(form.get("Action") == ["GetCallerIdentity"], "InvalidAction")
    authorization = single.get("authorization", "")
    algorithm, _, rest = authorization.partition(" ")
    need(algorithm == "AWS4-HMAC-SHA256", "MissingAuthenticationToken")
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    key, day, region, service, end = parts["Credential"].split("/")
    signed = parts["SignedHeaders"].split(";")
    need((service, end) == ("sts", "aws4_request"), "SignatureDoesNotMatch")
    need(region in ("us-east-1", "eu-central-1", "cn-north-1"), "SignatureDoesNotMatch")
    need("host" in signed and "x-amz-date" in signed, "SignatureDoesNotMatch")
    need(all(name in signed for name in names if name.startswith("x-amz-")), "SignatureDoesNotMatch")
    need(single["host"] in HOSTS + [own_host], "SignatureDoesNotMatch")
    date = single["x-amz-date"]
    at = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    need(abs((datetime.datetime.now(datetime.timezone.utc) - at).total_seconds()) <= 900, "SignatureDoesNotMatch")
    need(day == date[:8], "SignatureDoesNotMatch")
    principal = STATE["principals"].get(key)
    need(principal, "InvalidClientTokenId")
    need(single.get("x-amz-security-token") == principal.get("token"), "InvalidClientTokenId")
    signer = SigV4Auth(Credentials(key, principal["secret"], principal.get("token")), service, region)
    request = AWSRequest(method, "https://" + single["host"] + target, {name: single[name] for name in signed}, body)
    request.context["timestamp"] = date
    string = signer.string_to_sign(request, signer.canonical_request(request))
    need(signer.signature(string, request) == parts["Signature"], "SignatureDoesNotMatch")
    return principal


def as_json(account, arn, user_id):
    result = {"Account": account, "Arn": arn, "UserId": user_id}
    return {"GetCallerIdentityResponse": {"GetCallerIdentityResult": result, "ResponseMetadata": {"RequestId": "r-1"}}}


def as_xml(account, arn, user_id):
    return (
        f'<GetCallerIdentityResponse xmlns="{NS}">\n  <GetCallerIdentityResult>\n    <Arn>{arn}</Arn>\n'
        f"    <UserId>{user_id}</UserId>\n    <Account>{account}</Account>\n  </GetCallerIdentityResult>\n"
        "  <ResponseMetadata>\n    <RequestId>r-1</RequestId>\n  </ResponseMetadata>\n</GetCallerIdentityResponse>\n"
    )


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, media_type, text, **headers):
        data = text if isinstance(text, bytes) else text.encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def take(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/__set":
            with LOCK:
                STATE.update(json.loads(body))
            return self.answer(200, "application/json", "{}")
        if self.path == "/__log":
            with LOCK:
                told, LOG[:] = json.dumps(LOG), []
            return self.answer(200, "application/json", told)
        with LOCK:
            LOG.append({"method": self.command, "path": self.path, "headers": self.headers.items(), "body": body.decode()})
            mode = STATE["mode"]
        if mode in HOSTILE:
            return HOSTILE[mode](self)
        try:
            principal = verified(self.command, self.path, self.headers.items(), body, self.headers["Host"])
        except Refused as why:
            error = {"Error": {"Code": str(why), "Message": "no", "Type": "Sender"}, "RequestId": "r-1"}
            return self.answer(403, "application/json", json.dumps(error))
        told = (principal["account"], principal["arn"], principal["user_id"])
        if mode == "xml" or "application/json" not in self.headers.get("Accept", ""):
            return self.answer(200, "text/xml", as_xml(*told))
        self.answer(200, "application/json", json.dumps(as_json(*told)))

    do_GET = do_POST = do_PUT = take


ME = ("111122223333", "arn:aws:sts::111122223333:assumed-role/web/s1", "AROAEXAMPLE123456789:s1")


def xml(text):
    return lambda handler: handler.answer(200, "text/xml", text)


def lie(*told):
    return lambda handler: handler.answer(200, "application/json", json.dumps(as_json(*told)))


def slow(handler):
    time.sleep(20)


def drips(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "4096")
    handler.end_headers()
    try:
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.5)
    except OSError:
        pass


def hangs_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(2)


# What an attacker's identity provider could have STS reflect (CVE-2020-16250), and other answers that are none.
HOSTILE = {
    "reflects": xml(
        f'<AssumeRoleWithWebIdentityResponse xmlns="{NS}"><AssumeRoleWithWebIdentityResult><SubjectFromWebIdentityToken>'
        + as_xml(*ME)
        + "</SubjectFromWebIdentityToken></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    ),
    "reflects_first": xml(as_xml(*ME) + as_xml(*ME)),
    "reflects_json": lambda handler: handler.answer(
        200, "application/json", json.dumps({"SubjectFromWebIdentityToken": as_json(*ME), **as_json(*ME)})
    ),
    "other_namespace": xml(as_xml(*ME).replace("sts.amazonaws.com", "sts.evil.example")),
    "entity": xml('<!DOCTYPE x [<!ENTITY a "arn">]>' + as_xml(*ME)),
    "html": lambda handler: handler.answer(200, "text/html", as_xml(*ME)),
    "no_type": lambda handler: handler.answer(200, "", json.dumps(as_json(*ME))),
    "twice": xml(as_xml(*ME).replace("</Account>", "</Account><Account>444455556666</Account>")),
    "redirects": lambda handler: handler.answer(307, "text/plain", "", Location="/__elsewhere"),
    "not_found": lambda handler: handler.answer(404, "application/json", json.dumps(as_json(*ME))),
    "created": lambda handler: handler.answer(201, "application/json", json.dumps(as_json(*ME))),
    "huge": lambda handler: handler.answer(200, "application/json", b" " * (1 << 20) + json.dumps(as_json(*ME)).encode()),
    "fails": lambda handler: handler.answer(500, "application/json", json.dumps(as_json(*ME))),
    "slow": slow,
    "drips": drips,
    "hangs_up": hangs_up,
    "other_account": lie("444455556666", ME[1], ME[2]),
    "other_session": lie(ME[0], ME[1], "AROAEXAMPLE123456789:other"),
    "other_class": lie(ME[0], ME[1], "AIDAEXAMPLE123456789:s1"),
    "other_partition": lie(ME[0], ME[1].replace("arn:aws:", "arn:aws-cn:"), ME[2]),
    "root": lie(ME[0], "arn:aws:iam::111122223333:root", ME[0]),
    "federated": lie(ME[0], "arn:aws:sts::111122223333:federated-user/web", "111122223333:web"),
    "path": lie(ME[0], "arn:aws:sts::111122223333:assumed-role/svc/web/s1", ME[2]),
}

if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(json.dumps({"port": server.server_port, "hostile": sorted(HOSTILE)}), flush=True)
    # ends with who started it
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
