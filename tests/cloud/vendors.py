"""Identities as Google's and Microsoft's own libraries fetch or sign them: one JSON request a line in, one JSON answer a line out."""

import json
import sys

import azure.identity
import google.auth.crypt
import google.auth.jwt
import google.auth.transport.requests
from google.auth import compute_engine


def gce(ask):
    request = google.auth.transport.requests.Request()
    credentials = compute_engine.IDTokenCredentials(request, ask["audience"], use_metadata_identity_endpoint=True)
    credentials.refresh(request)
    return {"jwt": credentials.token}


def account(ask):
    signer = google.auth.crypt.RSASigner.from_string(ask["key"], ask["kid"])
    return {"jwt": google.auth.jwt.encode(signer, ask["claims"]).decode()}


def azure_token(ask):
    credential = azure.identity.ManagedIdentityCredential()
    return {"jwt": credential.get_token(ask["resource"] + "/.default").token}


if __name__ == "__main__":
    for line in sys.stdin:
        ask = json.loads(line)
        answer = {"gce": gce, "account": account, "azure": azure_token}[ask["op"]](ask)
        print(json.dumps(answer), flush=True)
