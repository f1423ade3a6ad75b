"""The status table: every error raised on purpose has a row, and no reply gives away more than it should."""

import inspect
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

from cache_sidecar.core import errors
from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.server import status

LONGEST = "\U0001f6cb" * 128
# What clients accept by default, as trailers.
METADATA_LIMIT = 8192


def details(of: status_pb2.Status, kind: type[Message]) -> Iterator[Message]:
    for packed in of.details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            yield message


def info(of: status_pb2.Status) -> ErrorInfo:
    (found,) = details(of, ErrorInfo)
    assert isinstance(found, ErrorInfo)
    return found


def retry_after(of: status_pb2.Status) -> float | None:
    for found in details(of, RetryInfo):
        assert isinstance(found, RetryInfo)
        return found.retry_delay.ToNanoseconds() / 1e9
    return None


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata", "retry"),
    [
        (errors.InvalidRequest({"a": "x"}), "INVALID_ARGUMENT", "INVALID_REQUEST", {}, None),
        (errors.NotFound("product", "A1"), "NOT_FOUND", "NOT_FOUND", {"resource": "product", "id": "A1"}, None),
        (errors.DataLoss("cart", "u"), "DATA_LOSS", "UNREADABLE_ROW", {"resource": "cart", "id": "u"}, None),
        (errors.AlreadyExists("product", "A1"), "ALREADY_EXISTS", "ALREADY_EXISTS", {"resource": "product", "id": "A1"}, None),
        (errors.EtagMismatch("product", "A", "2a"), "ABORTED", "ETAG_MISMATCH", {"etag": "2a", "id": "A"}, None),
        (errors.RequestIdReused("r"), "INVALID_ARGUMENT", "REQUEST_ID_REUSED", {}, None),
        (errors.ChangesExpired(5), "OUT_OF_RANGE", "CHANGES_EXPIRED", {}, None),
        (errors.WatchTooSlow(), "ABORTED", "WATCH_TOO_SLOW", {}, None),
        (errors.Overloaded("x", retry_after=0.5), "RESOURCE_EXHAUSTED", "OVERLOADED", {}, 0.5),
        (errors.DeadlineExceeded(), "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", {}, None),
        (errors.Draining(), "UNAVAILABLE", "DRAINING", {}, 0.1),
        (
            TierFailed(Tier.STORE, Failure.BUSY),
            "RESOURCE_EXHAUSTED",
            "TIER_BUSY",
            {"tier": "PostgreSQL"},
            pytest.approx(0.1, abs=0.05),
        ),
        (TierFailed(Tier.STORE, Failure.TIMEOUT), "UNAVAILABLE", "TIER_UNAVAILABLE", {"tier": "PostgreSQL"}, 1.0),
        (TierFailed(Tier.L2, Failure.UNREACHABLE), "UNAVAILABLE", "TIER_UNAVAILABLE", {"tier": "Redis"}, 1.0),
        (TierFailed(Tier.L2, Failure.REFUSED), "UNAVAILABLE", "TIER_UNAVAILABLE", {"tier": "Redis"}, 1.0),
    ],
)
def test_each_error_has_its_status(
    error: Exception, code: str, reason: str, metadata: dict[str, str], retry: float | None
) -> None:
    found = status.of(error)
    assert code_pb2.Code.Name(found.code) == code
    assert status.grpc_code(found) is grpc.StatusCode[code]
    assert (info(found).reason, info(found).domain) == (reason, "cache-sidecar.io")
    assert metadata.items() <= info(found).metadata.items()
    assert retry_after(found) == retry


def test_every_error_of_a_call_has_a_row() -> None:
    # Those of the command line are told in a terminal.
    told_elsewhere = {errors.SidecarError, errors.RequestError}
    told_elsewhere |= {errors.SettingsError, errors.InputError, errors.ServerUnreachable}
    kinds = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SidecarError)}
    without = [kind.__name__ for kind in kinds - told_elsewhere if not any(issubclass(kind, row) for row in status.TABLE)]
    assert without == []


def test_a_defect_is_internal_and_says_nothing_of_itself() -> None:
    found = status.of(KeyError("postgresql://shop:secret@db"))
    assert found.code == code_pb2.INTERNAL
    assert b"secret" not in found.SerializeToString()


def test_what_a_server_said_is_not_passed_on() -> None:
    found = status.of(TierFailed(Tier.STORE, Failure.REFUSED, 'relation "products" at 10.0.0.1 does not exist'))
    assert b"10.0.0.1" not in found.SerializeToString()


def test_every_violation_is_a_field_of_bad_request() -> None:
    violations = {"product.title": "must not be empty", "product.price.nanos": "must be at least 0"}
    for error in (errors.InvalidRequest(violations), errors.RequestIdReused("r")):
        (bad,) = details(status.of(error), BadRequest)
        assert isinstance(bad, BadRequest)
        fields = {violation.field: violation.description for violation in bad.field_violations}
        assert fields == (violations if isinstance(error, errors.InvalidRequest) else {"request_id": str(error)})


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("product", LONGEST),
        errors.AlreadyExists("product", "\x01" * 128),
        errors.EtagMismatch("product", LONGEST, "f" * 16),
        errors.InvalidRequest({f"product.attributes[{LONGEST}{number}]": "x" * 500 for number in range(20)}),
        errors.InvalidRequest({"a" * 100_000: "b" * 100_000}),
        errors.Overloaded("x" * 100_000),
    ],
)
def test_a_status_fits_into_what_clients_accept(error: Exception) -> None:
    found = status.of(error)
    # Percent-encoded as grpc-message, and in base64 as the details.
    message = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in found.message.encode())
    assert message + len(found.SerializeToString()) * 4 / 3 < METADATA_LIMIT


def test_every_code_of_google_is_one_of_grpc() -> None:
    for code in (found for name, found in code_pb2.Code.items() if name != "DO_NOT_USE"):
        assert status.grpc_code(status_pb2.Status(code=code)).value[0] == code
