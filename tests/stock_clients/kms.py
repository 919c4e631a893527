"""GenerateDataKey and Decrypt with stock grpcio: no stubs of ours, everything that is known comes by reflection.

Arguments: ADDR CA_FILE TOKEN_FILE KEY_ID
"""

import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "strongroom.kms.v1.Crypto"


def main():
    addr, ca_file, token_file, key_id = sys.argv[1:]
    with open(ca_file, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    with open(token_file) as file:
        metadata = [("authorization", "Bearer " + file.read().strip())]
    channel = grpc.secure_channel(addr, credentials)

    reflection = ProtoReflectionDescriptorDatabase(channel)
    services = set(reflection.get_services())
    for name in (SERVICE, "strongroom.kms.v1.Keys", "strongroom.identity.v1.Identity", "grpc.health.v1.Health"):
        assert name in services, f"{name} is not among {services}"
    service = DescriptorPool(reflection).FindServiceByName(SERVICE)

    def call(method, fields, metadata=metadata):
        described = service.methods_by_name[method]
        request, reply = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        stub = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        return stub(json_format.ParseDict(fields, request()), metadata=metadata, timeout=20)

    def refused(code, reason, *arguments, **named):
        try:
            call(*arguments, **named)
        except grpc.RpcError as error:
            assert error.code() == code, error
            if reason:
                details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
                info = error_details_pb2.ErrorInfo()
                assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(details).details), error
                assert (info.domain, info.reason) == ("strongroom", reason), info
            return
        raise AssertionError(f"{arguments} was not refused")

    context = {"purpose": "stock client"}
    made = call("GenerateDataKey", {"keyId": key_id, "keySpec": "DATA_KEY_SPEC_AES_256", "encryptionContext": context})
    assert len(made.plaintext) == 32 and made.key_id == key_id
    blob = json_format.MessageToDict(made)["ciphertextBlob"]
    opened = call("Decrypt", {"ciphertextBlob": blob, "encryptionContext": context})
    assert opened.plaintext == made.plaintext and opened.key_id == key_id

    refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CIPHERTEXT", "Decrypt", {"ciphertextBlob": blob})
    refused(grpc.StatusCode.UNAUTHENTICATED, None, "Decrypt", {"ciphertextBlob": blob}, metadata=[])
    print("generate-data-key and decrypt: done")


main()
