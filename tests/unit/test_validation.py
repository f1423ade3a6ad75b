"""The rules in the protos, as callers hear of them."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

import cache_sidecar.v1
from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.services.fingerprint import IGNORED
from cache_sidecar.services.shared.validation import MAX_VIOLATIONS, NAMED, validate
from cache_sidecar.v1 import product_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2 import UpdatePolicyRequest
from cache_sidecar.v1.buf.validate import validate_pb2
from cache_sidecar.v1.cache_pb2 import ReadOptions
from cache_sidecar.v1.cart_service_pb2 import ListAbandonedCartsRequest, MergeCartsRequest
from cache_sidecar.v1.inventory_service_pb2 import ExtendReservationRequest, WatchInventoryRequest
from cache_sidecar.v1.product_pb2 import Product


def violations(message: object, path: str = "") -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        validate(message, path=path)  # type: ignore[arg-type]
    return dict(caught.value.violations)


def product(**more: object) -> Product:
    made = Product(product_id="A1", title="Sofa", **more)  # type: ignore[arg-type]
    made.price.units, made.price.currency_code = 5, "EUR"
    return made


def test_a_right_message_passes() -> None:
    validate(pb.GetProductRequest(product_id="85123A"))
    validate(pb.CreateProductRequest(product=product()))


@pytest.mark.parametrize("id", ["a{b}c", "a:b", " ", "ä", "\U0001f6cb" * 128, "%", "'; DROP TABLE products"])
def test_ids_may_hold_whatever_is_no_control_character(id: str) -> None:
    validate(pb.GetProductRequest(product_id=id))


@pytest.mark.parametrize("id", ["", "\x00", "a\nb", "\x7f", "x" * 129])
def test_other_ids_are_refused_by_name(id: str) -> None:
    assert list(violations(pb.GetProductRequest(product_id=id))) == ["product_id"]


def test_a_pattern_is_told_in_words() -> None:
    assert violations(pb.GetProductRequest(product_id="a\nb")) == {"product_id": "must not contain control characters"}
    described = violations(pb.CreateProductRequest(product=product(description="a\x00b")))
    assert described == {"product.description": "must not contain NUL characters"}


def test_nested_fields_repeated_fields_and_maps_are_named_by_their_path() -> None:
    broken = product(categories=["fine", "\x00"], attributes={"k\x00": "v", "size": "\x00"})
    broken.price.nanos = -1
    found = violations(pb.CreateProductRequest(product=broken))
    assert "product.categories[1]" in found
    assert "product.attributes['size']" in found
    assert r"product.attributes['k\x00']" in found
    assert any(field.startswith("product.price") for field in found)


def test_a_path_can_be_put_before_the_fields() -> None:
    assert list(violations(pb.GetProductRequest(product_id=""), path="product.")) == ["product.product_id"]


@pytest.mark.parametrize("uuid", ["1", "not-a-uuid", "00000000-0000-0000-0000-00000000000g"])
def test_a_request_id_is_a_uuid(uuid: str) -> None:
    assert list(violations(pb.CreateProductRequest(product=product(), request_id=uuid))) == ["request_id"]


@pytest.mark.parametrize("age", [Duration(seconds=-1), Duration(seconds=2**62)])
def test_an_impossible_duration_is_refused_in_words(age: Duration) -> None:
    found = violations(pb.GetProductRequest(product_id="A1", options=ReadOptions(max_age=age)))
    assert found
    assert all(text for text in found.values())


# Requests with a Duration, and where it is.
DURATIONS: dict[str, Callable[[Duration], Message]] = {
    "options.max_age": lambda of: pb.GetProductRequest(product_id="A1", options={"max_age": of}),
    "hold_duration": lambda of: ExtendReservationRequest(reservation_id=str(uuid4()), hold_duration=of),
    "idle_for": lambda of: ListAbandonedCartsRequest(idle_for=of),
    "policy.l2_ttl": lambda of: UpdatePolicyRequest(policy={"l2_ttl": of}),
}
NO_DURATIONS = {
    "of two signs": Duration(seconds=5, nanos=-1),
    "of two signs, negative": Duration(seconds=-5, nanos=1),
    "nanos of more than a second": Duration(seconds=5, nanos=10**9),
    "the most nanos": Duration(nanos=2**31 - 1),
    "the fewest nanos": Duration(nanos=-(2**31)),
    "beyond 10,000 years": Duration(seconds=315_576_000_001),
    "the most seconds": Duration(seconds=2**63 - 1),
    "the fewest seconds": Duration(seconds=-(2**63)),
}


@pytest.mark.parametrize("field", DURATIONS)
@pytest.mark.parametrize("age", NO_DURATIONS.values(), ids=NO_DURATIONS.keys())
def test_numbers_that_are_no_duration_are_refused_by_the_field(field: str, age: Duration) -> None:
    assert list(violations(DURATIONS[field](age))) == [field]


@pytest.mark.parametrize("field", DURATIONS)
def test_a_duration_may_have_nanos(field: str) -> None:
    validate(DURATIONS[field](Duration(seconds=5, nanos=10**9 - 1)))


# Times that their service checks: see tests/contract/test_user_events.py.
CHECKED = dict.fromkeys(("WriteUserEventsRequest", "StreamUserEventsRequest"), ("events.event_time",))


def test_every_duration_of_a_request_is_looked_at_and_no_time_of_one_is_read() -> None:
    found = {}
    for request in requests():
        for path, kind in times(request):
            found[f"{request.name} {path}"] = kind
            if kind == "Duration":
                made, at = message_factory.GetMessageClass(request)(), path.split(".")
                broken: Any = made
                for name in at:
                    broken = getattr(broken, name)
                broken.seconds, broken.nanos = 1, -1
                assert path in violations(made)
            else:
                known = IGNORED.get(request.name) or CHECKED[request.name]
                assert path in known, "a time that somebody reads has to be checked"
    assert len(found) >= 20


def requests() -> Iterator[Descriptor]:
    """Yields every request of our services."""
    for file in Path(cache_sidecar.v1.__path__[0]).glob("*_service_pb2.py"):
        module = importlib.import_module(f"cache_sidecar.v1.{file.stem}")
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from (method.input_type for method in service.methods)


def times(message: Descriptor, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields where a message has durations and times."""
    for field in message.fields:
        if field.message_type is not None and field.message_type.name in ("Duration", "Timestamp"):
            yield path + field.name, field.message_type.name
        elif field.message_type is not None:
            yield from times(field.message_type, f"{path}{field.name}.")


@pytest.mark.parametrize("mask", ["update_mask", "reset_mask"])
def test_a_mask_has_at_most_100_paths(mask: str) -> None:
    found = 0
    for request in requests():
        if mask in request.fields_by_name:
            made: Any = message_factory.GetMessageClass(request)()
            getattr(made, mask).paths.extend(["a"] * 100)
            if request.name == "UpdatePolicyRequest":
                made.policy.dataset = "product"
            validate(made)
            getattr(made, mask).paths.append("a")
            assert list(violations(made)) == [mask]
            found += 1
    assert found


def test_so_many_violations_are_told_and_no_more() -> None:
    found = violations(pb.BatchGetProductsRequest(product_ids=["", "a\n"] * 200))
    assert 1 <= len(found) <= MAX_VIOLATIONS


def test_a_violation_does_not_repeat_what_it_was_sent() -> None:
    found = violations(pb.CreateProductRequest(product=product(attributes={"k" * 10_000: "v"})))
    assert all(len(field) < 200 for field in found)


@given(data=st.binary(max_size=200))
def test_whatever_parses_is_valid_or_refused_in_words(data: bytes) -> None:
    request = pb.CreateProductRequest()
    try:
        request.ParseFromString(data)
    except ValueError:  # DecodeError
        return
    except Exception as error:  # noqa: BLE001
        assert type(error).__name__ == "DecodeError"
        return
    assert all(violations(request).values())


def test_a_rule_of_a_whole_message_names_its_fields() -> None:
    for_both = "set product_ids, categories, or both"
    assert violations(WatchInventoryRequest(), "a.") == {"a.product_ids": for_both, "a.categories": for_both}
    same = MergeCartsRequest(user_id="u", guest_user_id="u", request_id="6e1a6a36-9b1c-4c6d-9d3c-3f3a4b6a0d11")
    assert list(violations(same)) == ["user_id", "guest_user_id"]


def test_every_rule_of_a_whole_message_has_an_expression_with_fields() -> None:
    found = 0
    for file in Path(cache_sidecar.v1.__path__[0]).glob("*_pb2.py"):
        module = importlib.import_module(f"cache_sidecar.v1.{file.stem}")
        for message in module.DESCRIPTOR.message_types_by_name.values():
            for rule in message.GetOptions().Extensions[validate_pb2.message].cel:
                named = NAMED.findall(rule.expression)
                assert named
                assert set(named) <= set(message.fields_by_name)
                found += 1
    assert found
