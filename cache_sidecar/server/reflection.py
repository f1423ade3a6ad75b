"""Server reflection, v1alpha and v1: newer clients use v1, which has the same messages under another name."""

import contextlib
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

V1ALPHA = reflection.SERVICE_NAME
V1 = V1ALPHA.replace("v1alpha", "v1")
NAMES = (V1, V1ALPHA)


def servicer(services: Sequence[str]) -> ReflectionServicer:
    """Returns the reflection service of these services and itself."""
    _describe_v1()
    return ReflectionServicer([*services, *NAMES])


def register(servicer: ReflectionServicer, server: Any) -> None:
    """Registers the reflection service under both names."""
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_registered_method_handlers(V1, {"ServerReflectionInfo": handler})


def _describe_v1() -> None:
    """Adds the descriptors of v1 to the default pool, unless they are there."""
    pool = descriptor_pool.Default()
    with contextlib.suppress(KeyError):
        pool.FindServiceByName(V1)
        return
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = file.name.replace("v1alpha", "v1"), V1.rpartition(".")[0]
    for field in (field for message in file.message_type for field in message.field if field.type_name):
        field.type_name = _in_v1(field.type_name)
    for method in (method for service in file.service for method in service.method):
        method.input_type, method.output_type = _in_v1(method.input_type), _in_v1(method.output_type)
    pool.Add(file)


def _in_v1(name: str) -> str:
    return name.replace(".v1alpha.", ".v1.")
