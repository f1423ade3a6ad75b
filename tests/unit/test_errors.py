"""Errors: one line each, for the person who caused it."""

import inspect
import pickle

import pytest

from cache_sidecar.core import errors
from cache_sidecar.core.errors import Failure, SidecarError, Tier, TierFailed

EXAMPLES: list[SidecarError] = [
    errors.SettingsError("a setting is wrong"),
    errors.InputError("a file is wrong"),
    errors.ServerUnreachable("nobody answers"),
    errors.Unauthenticated(had_token=True),
    errors.InvalidCertificate("3f was revoked"),
    errors.ClientNotAllowed("cart.shop"),
    errors.InvalidRequest({"product_id": "must not be empty", "": "too much"}),
    errors.NotFound("product", "A\n1"),
    errors.AlreadyExists("product", "A1"),
    errors.EtagMismatch("product", "A1", "2a"),
    errors.RequestIdReused("00000000-0000-0000-0000-000000000000"),
    errors.ChangesExpired(42),
    errors.WatchTooSlow(),
    errors.Overloaded("5 calls are in progress"),
    errors.DeadlineExceeded(),
    errors.Draining(),
    TierFailed(Tier.STORE, Failure.TIMEOUT),
    TierFailed(Tier.L2, Failure.REFUSED, "WRONGTYPE"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_each_is_one_line(error: SidecarError) -> None:
    assert str(error).strip()
    assert "\n" not in str(error)


def test_a_line_names_what_it_is_about() -> None:
    assert str(errors.NotFound("product", "A\n1")) == r"there is no product 'A\n1'"
    assert str(errors.InvalidRequest({"product_id": "must not be empty", "": "too much"})) == (
        "product_id: must not be empty; too much"
    )
    assert "42" in str(errors.ChangesExpired(42))
    assert "'2a'" in str(errors.EtagMismatch("product", "A1", "2a"))
    missing = str(errors.EtagMismatch("inventory", "A1", ""))
    assert missing == "inventory 'A1' does not exist, so it has no etag: leave the etag empty"


def test_a_failed_tier_says_which_and_how() -> None:
    error = TierFailed(Tier.L2, Failure.BUSY)
    assert (error.tier, error.failure, str(error)) == (Tier.L2, Failure.BUSY, "Redis: too many callers are waiting")


def test_everything_raised_on_purpose_has_one_base() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert all(issubclass(kind, SidecarError) for kind in classes)


def test_what_a_call_did_wrong_is_told_apart_from_what_a_tier_did() -> None:
    assert not issubclass(TierFailed, errors.RequestError)
    assert not issubclass(errors.SettingsError, errors.RequestError)


def test_overload_says_when_to_come_back() -> None:
    delays = {errors.Overloaded("x").retry_after for _ in range(100)}
    assert len(delays) > 50, "those who are refused together are not to come again together"
    assert all(0.05 <= delay <= 0.15 for delay in delays)
    assert errors.Overloaded("x", retry_after=2.0).retry_after == 2.0


def test_errors_are_values() -> None:
    assert errors.NotFound("product", "A1") == errors.NotFound("product", "A1")
    assert pickle.loads(pickle.dumps(errors.NotFound("product", "A1"))) is not None
