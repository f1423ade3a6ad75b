"""Whether and when the Python client repeats a call."""

import math
import re
from pathlib import Path

import grpc
import pytest
from cache_sidecar_client import errors
from cache_sidecar_client._attempts import FIRST_PAUSE, LONGEST_PAUSE, LONGEST_TIMEOUT, Attempts
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

Code = grpc.StatusCode


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def failed(code: grpc.StatusCode, reason: str = "", retry_after: float | None = None, **metadata: str) -> errors.SidecarError:
    status = status_pb2.Status(code=code.value[0])
    if reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, metadata=metadata))
    if retry_after is not None:
        delay = Duration()
        delay.FromMicroseconds(int(retry_after * 1e6))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return errors.of_status(code, "failed", (("grpc-status-details-bin", status.SerializeToString()),))


def test_an_endless_timeout_is_one_that_grpc_can_count() -> None:
    assert {Attempts(timeout, clock=Clock()).timeout() for timeout in (math.inf, 1e300, 400 * 86400.0)} == {LONGEST_TIMEOUT}
    assert Attempts(math.inf, clock=Clock()).delay_after(failed(Code.UNAVAILABLE)) > 0
    with pytest.raises(ValueError, match="not NaN"):
        Attempts(math.nan)


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED])
def test_a_sidecar_that_is_away_is_asked_again_with_growing_pauses(code: grpc.StatusCode) -> None:
    attempts = Attempts(60.0, clock=Clock())
    pauses = [attempts.delay_after(failed(code)) for _ in range(20)]
    for number, pause in enumerate(pauses):
        full = min(LONGEST_PAUSE, FIRST_PAUSE * 2**number)
        assert full / 2 <= pause <= full
    assert attempts.count == 21


def test_the_pause_is_as_long_as_the_sidecar_asks() -> None:
    assert Attempts(60.0, clock=Clock()).delay_after(failed(Code.UNAVAILABLE, "TIER_UNAVAILABLE", 1.5)) == 1.5


def test_a_pause_beyond_the_deadline_is_not_made() -> None:
    clock = Clock()
    attempts = Attempts(2.0, clock=clock)
    clock.now += 1.0
    assert attempts.timeout() == 1.0
    with pytest.raises(errors.Unavailable):
        attempts.delay_after(failed(Code.UNAVAILABLE, "TIER_UNAVAILABLE", 1.5))


def test_an_attempt_is_never_without_a_deadline() -> None:
    clock = Clock()
    attempts = Attempts(2.0, clock=clock)
    clock.now += 5.0
    assert attempts.timeout() > 0


def test_overload_is_asked_again_twice_and_only_if_the_sidecar_says_when() -> None:
    attempts = Attempts(60.0, clock=Clock())
    overloaded = failed(Code.RESOURCE_EXHAUSTED, "OVERLOADED", 0.1)
    assert [attempts.delay_after(overloaded) >= 0.1 for _ in range(2)] == [True, True]
    with pytest.raises(errors.Overloaded):
        attempts.delay_after(overloaded)
    with pytest.raises(errors.Overloaded):
        Attempts(60.0, clock=Clock()).delay_after(failed(Code.RESOURCE_EXHAUSTED))


@pytest.mark.parametrize("code", [Code.NOT_FOUND, Code.ABORTED, Code.INVALID_ARGUMENT, Code.DEADLINE_EXCEEDED, Code.INTERNAL])
def test_nothing_else_is_asked_again(code: grpc.StatusCode) -> None:
    with pytest.raises(errors.SidecarError):
        Attempts(60.0, clock=Clock()).delay_after(failed(code))


def test_a_refused_token_is_read_again_once() -> None:
    attempts = Attempts(60.0, clock=Clock())
    refused = failed(Code.UNAUTHENTICATED, "INVALID_TOKEN")
    assert (attempts.delay_after(refused), attempts.looks_at_token) == (0.0, True)
    with pytest.raises(errors.Unauthenticated):
        attempts.delay_after(refused)


def test_without_repetition_there_is_one_attempt() -> None:
    with pytest.raises(errors.Unavailable):
        Attempts(60.0, repeats=False, clock=Clock()).delay_after(failed(Code.UNAVAILABLE))


def test_an_error_has_the_type_of_its_reason_and_its_values() -> None:
    error = failed(Code.FAILED_PRECONDITION, "OUT_OF_STOCK", product_id="mug", available="3")
    assert isinstance(error, errors.OutOfStock)
    assert (error.product_id, error.available, error.reason) == ("mug", 3, "OUT_OF_STOCK")


def test_a_reason_of_a_newer_sidecar_has_the_type_of_its_code() -> None:
    assert type(failed(Code.UNAVAILABLE, "MOON_IS_FULL")) is errors.Unavailable
    assert type(failed(Code.DATA_LOSS, "MOON_IS_FULL")) is errors.SidecarError


def test_details_that_cannot_be_read_are_ignored() -> None:
    error = errors.of_status(Code.NOT_FOUND, "none", (("grpc-status-details-bin", b"\xff"), ("x", "y")))
    assert type(error) is errors.NotFound
    assert str(error) == "none (NOT_FOUND)"


def test_every_reason_of_the_sidecar_has_a_type() -> None:
    from cache_sidecar.server import status  # noqa: PLC0415  # the only test of the client that knows the server

    by_code = {"TIER_BUSY", "TIER_UNAVAILABLE", "DEADLINE_EXCEEDED", "STREAM_IDLE", "INVALID_TOKEN"}
    by_code |= {"INVALID_CERTIFICATE", "CLIENT_NOT_ALLOWED", "ROLE_MISSING", "AUDIT_FAILED"}
    text = Path(status.__file__).read_text()
    reasons = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', text)) - by_code
    assert reasons == set(errors.BY_REASON)
