"""Whose a request_id is: in a private dataset never the whole shop's, or two users with the same one would collide."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor

from cache_sidecar import datasets
from cache_sidecar.services.shared.writes import key_of

PRIVATE = {spec.service for spec in datasets.ALL if spec.is_private and spec.service}


def mutations() -> Iterator[Any]:
    """Yields each request of a private dataset that has a request_id."""
    for service in sorted(PRIVATE):
        name = service.rpartition(".")[2].removesuffix("Service").lower()
        module = importlib.import_module(f"cache_sidecar.v1.{name}_service_pb2")
        for method in module.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods:
            if "request_id" in method.input_type.fields_by_name:
                yield method.input_type


def fill(message: Any) -> Any:
    """Sets every text, and every message that is not repeated."""
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated or field.containing_oneof:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, "a")
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            if field.message_type.file.package == message.DESCRIPTOR.file.package:
                fill(getattr(message, field.name))
    return message


@pytest.mark.parametrize("request_type", list(mutations()), ids=lambda found: found.name)
def test_a_request_id_is_its_user_s(request_type: Any) -> None:
    key = key_of(fill(message_factory.GetMessageClass(request_type)()))
    assert key is not None
    assert key.scope.split(" ")[0] in {"user", "session", "client"}
