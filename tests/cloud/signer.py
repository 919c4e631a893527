"""Signs as AWS's own clients do: one JSON request a line in, one JSON answer a line out.

`boto3` is the real client, whose request is caught just before it would be sent; `sign` is botocore's signer on any request, at
any time; `imds` and `container` fetch credentials by botocore's own fetchers, of what the environment names.
"""

import base64
import datetime
import json
import sys

import boto3
import botocore.auth
import botocore.config
import botocore.session
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.credentials import Credentials

real_now = botocore.auth.get_current_datetime


def told(method, url, headers, body):
    text = body if isinstance(body, str) else (body or b"").decode()
    headers = {name: value if isinstance(value, str) else value.decode() for name, value in dict(headers).items()}
    return {"method": method, "url": url, "headers": headers, "body": text}


def by_boto3(ask):
    config = botocore.config.Config(region_name=ask["region"], retries={"max_attempts": 0})
    session = boto3.session.Session(ask["key"], ask["secret"], ask.get("token"))
    sts = session.client("sts", endpoint_url=ask.get("endpoint"), config=config)
    caught = []

    def before_sign(request, **_):
        request.headers["X-Vault-AWS-IAM-Server-ID"] = ask["server_id"]

    def before_send(request, **_):
        caught.append(told(request.method, request.url, request.headers, request.body))

        class Raw:
            def stream(self, **_):
                return iter([b"<ErrorResponse><Error><Code>NotSent</Code></Error></ErrorResponse>"])

        return AWSResponse(request.url, 403, {}, Raw())

    sts.meta.events.register("before-sign.sts", before_sign)
    sts.meta.events.register("before-send.sts", before_send)
    try:
        sts.get_caller_identity()
    except botocore.exceptions.ClientError:
        pass
    return caught[0]


def sign(ask):
    shift = datetime.timedelta(seconds=ask.get("shift", 0))
    botocore.auth.get_current_datetime = lambda *a, **k: real_now(*a, **k) + shift
    request = AWSRequest(ask.get("method", "POST"), ask["url"], ask["headers"], ask.get("body", ""))
    credentials = Credentials(ask["key"], ask["secret"], ask.get("token"))
    botocore.auth.SigV4Auth(credentials, ask.get("service", "sts"), ask["region"]).add_auth(request)
    botocore.auth.get_current_datetime = real_now
    return told(request.method, request.url, request.headers, request.data)


def fetched(_):
    credentials = botocore.session.get_session().get_credentials().get_frozen_credentials()
    return {"key": credentials.access_key, "secret": credentials.secret_key, "token": credentials.token}


if __name__ == "__main__":
    for line in sys.stdin:
        ask = json.loads(line)
        answer = {"boto3": by_boto3, "sign": sign, "fetched": fetched}[ask["op"]](ask)
        print(json.dumps(answer), flush=True)
