"""Server reflection: grpcurl needs no proto files."""

from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from tests.support.shop import Shop

SERVICES = {
    "cache_sidecar.v1.AdminService",
    "cache_sidecar.v1.ProductService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


async def ask(shop: Shop, *requests: pb.ServerReflectionRequest, version: str = "v1") -> list[pb.ServerReflectionResponse]:
    # The messages of both are the same.
    call: Any = shop.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )(iter(requests))
    return [reply async for reply in call]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_every_service_is_listed(shop: Shop, version: str) -> None:
    (reply,) = await ask(shop, pb.ServerReflectionRequest(list_services=""), version=version)
    assert {service.name for service in reply.list_services_response.service} >= SERVICES


async def test_every_file_a_caller_needs_is_served(shop: Shop) -> None:
    pending, files = list(SERVICES), {}
    for name in pending:
        (reply,) = await ask(shop, pb.ServerReflectionRequest(file_containing_symbol=name))
        for data in reply.file_descriptor_response.file_descriptor_proto:
            files[FileDescriptorProto.FromString(data).name] = FileDescriptorProto.FromString(data)
    missing = {name for file in files.values() for name in file.dependency} - files.keys()
    while missing:
        replies = await ask(shop, *(pb.ServerReflectionRequest(file_by_filename=name) for name in sorted(missing)))
        for reply in replies:
            for data in reply.file_descriptor_response.file_descriptor_proto:
                files[FileDescriptorProto.FromString(data).name] = FileDescriptorProto.FromString(data)
        found = {name for file in files.values() for name in file.dependency} - files.keys()
        assert found != missing, f"not served: {missing}"
        missing = found
    (v1,) = (file for file in files.values() if file.package == "grpc.reflection.v1")
    assert {method.input_type for service in v1.service for method in service.method} == {
        ".grpc.reflection.v1.ServerReflectionRequest"
    }
    assert {"cache_sidecar/v1/product.proto", "google/type/money.proto", "buf/validate/validate.proto"} <= files.keys()


async def test_what_is_not_there_is_said_per_request(shop: Shop) -> None:
    replies = await ask(
        shop,
        pb.ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
        pb.ServerReflectionRequest(file_by_filename="no/such.proto"),
        pb.ServerReflectionRequest(),
        pb.ServerReflectionRequest(list_services="x"),
    )
    assert [reply.WhichOneof("message_response") for reply in replies] == ["error_response"] * 3 + ["list_services_response"]
    assert replies[0].error_response.error_code == 5
