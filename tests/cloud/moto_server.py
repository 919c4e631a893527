"""moto's STS, which checks signatures once authentication is on: one user, whose key is told when it serves."""

import json
import os
import sys
import urllib.request

import boto3
import moto.iam.models
from moto.server import ThreadedMotoServer

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

# moto's unique ids are in no form of AWS's: here they are
made_up = moto.iam.models.random_resource_id
moto.iam.models.random_resource_id = lambda *args, **named: "AIDA" + made_up(*args, **named).upper()

if __name__ == "__main__":
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    iam = boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    user = iam.create_user(UserName="bob")["User"]
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_user_policy(UserName="bob", PolicyName="all", PolicyDocument=json.dumps(allow))
    key = iam.create_access_key(UserName="bob")["AccessKey"]
    # from here on signatures are verified
    off = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(endpoint + "/moto-api/reset-auth", b"0", off)).read()
    told = {"endpoint": endpoint, "arn": user["Arn"], "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    print(json.dumps(told), flush=True)
    sys.stdin.read()
