"""What counts of a request, and what does not, when it is told from another one with the same request_id."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cache_sidecar.services.fingerprint import IGNORED, UUIDS, fingerprint
from cache_sidecar.v1 import cart_service_pb2 as carts
from cache_sidecar.v1 import product_service_pb2 as products
from cache_sidecar.v1 import session_service_pb2 as sessions

PROTOS = Path(__file__).parents[2] / "protos" / "cache_sidecar" / "v1"
UUID_OF = str(UUID(int=0xABCDEF))
# What comments in the protos say of a field that the server alone sets.
_SET_BY_SERVER = re.compile(r"Output only\.|Set by the server\.")
_FIELD = re.compile(r"^  (?:repeated )?[\w.<>, ]+ (\w+) = \d+")


def with_request_id() -> list[Descriptor]:
    """Returns every request that has one."""
    modules = [importlib.import_module(f"cache_sidecar.v1.{file.stem}_pb2") for file in PROTOS.glob("*_service.proto")]
    services = [module.DESCRIPTOR.services_by_name for module in modules]
    methods = [method for found in services for service in found.values() for method in service.methods]
    return [method.input_type for method in methods if "request_id" in method.input_type.fields_by_name]


def fields(message: Descriptor, path: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """Yields every field with its path, those of a message's messages behind it."""
    for field in message.fields:
        yield path + field.name, field
        kind = field.message_type
        if kind is not None and not field.is_repeated and kind.file.package == message.file.package:
            yield from fields(kind, f"{path}{field.name}.")


def filled(request: Descriptor, path: str) -> Any:
    """Returns a request of which one field is set; the resource that it is in is there either way."""
    made: Any = message_factory.GetMessageClass(request)()
    holder = made
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
        holder.SetInParent()
    field = holder.DESCRIPTOR.fields_by_name[name]
    value = getattr(holder, name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value["a"] = "b"
    elif field.message_type is not None and field.is_repeated:
        value.add()
    elif field.is_repeated:
        value.append("a")
    elif field.message_type is not None:
        value.SetInParent()
    else:
        setattr(holder, name, UUID_OF if field.type == FieldDescriptor.TYPE_STRING else 1)
    return made


def without(request: Descriptor, path: str) -> Any:
    """Returns the same without the field."""
    made = filled(request, path)
    holder = made
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    holder.ClearField(name)
    return made


CASES = [(request, path) for request in with_request_id() for path, _ in fields(request)]


@pytest.mark.parametrize(("request_", "path"), CASES, ids=[f"{request.name} {path}" for request, path in CASES])
def test_what_the_server_ignores_does_not_count_and_all_else_does(request_: Descriptor, path: str) -> None:
    is_same = fingerprint(filled(request_, path)) == fingerprint(without(request_, path))
    assert is_same == (path in IGNORED.get(request_.name, ()))


def test_what_is_ignored_is_what_the_protos_say() -> None:
    for request in with_request_id():
        for resource in request.fields:
            kind = resource.message_type
            if kind is None or kind.name not in ("Product", "Session", "Cart"):
                continue
            said = {f"{resource.name}.{name}" for name in set_by_server(kind)} - {f"{resource.name}.etag"}
            etag = {f"{resource.name}.etag"} if request.name == "CreateProductRequest" else set()
            assert set(IGNORED[request.name]) == said | etag


def set_by_server(message: Descriptor) -> Iterator[str]:
    """Yields the fields of which the proto says so."""
    text = (PROTOS / Path(message.file.name).name).read_text()
    body = text[text.index(f"message {message.name} {{") :]
    comment = ""
    for line in body[: body.index("\n}")].splitlines():
        if line.startswith("  // "):
            comment += line
        elif found := _FIELD.match(line):
            if _SET_BY_SERVER.search(comment):
                yield found[1]
            comment = ""


@pytest.mark.parametrize("request_", with_request_id(), ids=lambda request: request.name)
def test_upper_and_lower_case_of_a_uuid_are_one(request_: Descriptor) -> None:
    for name in {"request_id", *UUIDS} & set(request_.fields_by_name):
        lower, upper = filled(request_, name), filled(request_, name)
        setattr(upper, name, UUID_OF.upper())
        assert fingerprint(lower) == fingerprint(upper)
    uuids = {field.name for field in request_.fields if field.name.endswith(("request_id", "reservation_id"))}
    assert uuids <= set(UUIDS)


def test_the_case_of_any_other_id_counts() -> None:
    one, other = (carts.ClearCartRequest(user_id=user) for user in ("anna", "Anna"))
    assert fingerprint(one) != fingerprint(other)


def test_what_a_mask_does_not_name_does_not_count() -> None:
    def update(*paths: str, **values: Any) -> bytes:
        request = products.UpdateProductRequest(product={"product_id": "p", **values})
        request.update_mask.paths.extend(paths)
        return fingerprint(request)

    assert update("title", title="a", brand="b") == update("title", title="a", brand="c")
    assert update("title", "brand", title="a", brand="b") == update("brand", "title", "brand", title="a", brand="b")
    assert update("title", title="a") != update("title", title="b")
    assert update("title", title="a", etag="1") != update("title", title="a", etag="2")
    assert update("*", title="a", brand="b") != update("*", title="a", brand="c")
    assert update(title="a", brand="b") != update(title="a", brand="c")


def test_nor_does_an_attribute_that_it_does_not_name() -> None:
    def update(*paths: str, **attributes: str) -> bytes:
        request = sessions.UpdateSessionRequest(session={"session_id": "s", "attributes": attributes})
        request.update_mask.paths.extend(paths)
        return fingerprint(request)

    assert update("attributes.a", a="1", b="2") == update("attributes.a", a="1")
    assert update("attributes", a="1", b="2") != update("attributes", a="1")
    assert update("attributes.a", a="1") != update("attributes.a")


def test_fields_of_another_version_do_not_count() -> None:
    plain = carts.ClearCartRequest(user_id="u")
    with_unknown = carts.ClearCartRequest.FromString(plain.SerializeToString() + b"\xc2\x3e\x05hello")
    assert fingerprint(with_unknown) == fingerprint(plain)


def test_the_request_itself_stays_as_it_was() -> None:
    request = products.CreateProductRequest(product={"product_id": "p", "etag": "7"}, request_id=UUID_OF.upper())
    before = request.SerializeToString()
    fingerprint(request)
    assert request.SerializeToString() == before
