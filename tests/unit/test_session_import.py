"""What a row has to be to become a session."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cache_sidecar.config import policy
from cache_sidecar.core.errors import InvalidRequest
from cache_sidecar.importer import sessions
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.sessions import SessionParser
from cache_sidecar.services.session import hash_of
from cache_sidecar.services.shared.validation import validate
from cache_sidecar.v1.session_pb2 import Session, SessionClient
from cache_sidecar.v1.session_service_pb2 import GetSessionRequest
from tests.support import inside
from tests.support.clocks import ManualClock

SECRET = "s3cret-id"
CLOCK = ManualClock()
NOW = datetime.fromtimestamp(CLOCK.now(), UTC)


@pytest.fixture
def rules() -> SessionParser:
    return SessionParser(policy.default()["session"], CLOCK)


def test_a_row_of_an_id_alone_is_a_session(rules: SessionParser) -> None:
    for columns in (rules.from_json({"session_id": SECRET}), rules.from_csv({"session_id": SECRET, "user_id": " "})):
        assert columns == {
            "session_hash": hash_of(SECRET),
            "user_id": "",
            "ip_address": "",
            "user_agent": "",
            "attributes": "{}",
            "create_time": NOW,
            "use_time": NOW,
            "end_time": NOW + timedelta(days=30),
        }


def test_a_row_says_what_a_session_holds(rules: SessionParser) -> None:
    given = {
        "session_id": SECRET,
        "user_id": "ann",
        "attributes": {"theme": "dark"},
        "ip_address": "192.0.2.7",
        "user_agent": "Browser/1",
        "create_time": (NOW - timedelta(days=2)).isoformat(),
        "expire_time": CLOCK.now() + 60,
    }
    for columns in (
        rules.from_json(given | {"expire_time": int(CLOCK.now()) + 60}),
        rules.from_csv({name: json.dumps(value) if name == "attributes" else str(value) for name, value in given.items()}),
    ):
        assert (columns["user_id"], columns["user_agent"]) == ("ann", "Browser/1")
        assert json.loads(columns["attributes"]) == {"theme": "dark"}
        assert columns["use_time"] == NOW - timedelta(minutes=29)
        assert columns["end_time"] == NOW + timedelta(days=28)


def test_no_session_outlives_its_end(rules: SessionParser) -> None:
    old = NOW - timedelta(days=30) + timedelta(minutes=1)
    columns = rules.from_json({"session_id": SECRET, "create_time": old.isoformat()})
    assert columns["end_time"] == NOW + timedelta(minutes=1)


@pytest.mark.parametrize("lifetime", [0, 86400])
def test_what_never_expires_ends_when_the_policy_says(lifetime: float) -> None:
    policy_ = policy.default()["session"].model_copy(update={"max_lifetime": lifetime})
    columns = SessionParser(policy_, CLOCK).from_json({"session_id": SECRET, "expire_time": "9999-12-31T23:59:59Z"})
    assert columns["end_time"] == NOW + timedelta(seconds=lifetime or 100 * 365 * 86400)
    assert columns["use_time"] + timedelta(seconds=policy_.l2_ttl) == columns["end_time"]


@pytest.mark.parametrize("ahead", [timedelta(minutes=1), timedelta()])
def test_a_clock_that_is_ahead_lengthens_no_session(rules: SessionParser, ahead: timedelta) -> None:
    columns = rules.from_json({"session_id": SECRET, "create_time": (NOW + ahead).isoformat()})
    assert (columns["create_time"], columns["end_time"]) == (NOW, NOW + timedelta(days=30))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "missing_field"),
        ({"session_id": 7}, "wrong_type"),
        ({"session_id": SECRET * 40}, "session_id"),
        ({"session_id": SECRET + "\n"}, "session_id"),
        ({"session_id": SECRET, "colour": "x"}, "unknown_field"),
        ({"session_id": SECRET, "user_id": "u" * 129}, "too_long"),
        ({"session_id": SECRET, "user_agent": "a\tb"}, "control_character"),
        ({"session_id": SECRET, "attributes": [SECRET]}, "attributes"),
        ({"session_id": SECRET, "attributes": {"a": 1}}, "wrong_type"),
        ({"session_id": SECRET, "attributes": {str(n): "" for n in range(65)}}, "attributes"),
        ({"session_id": SECRET, "expire_time": "soon"}, "time"),
        ({"session_id": SECRET, "expire_time": "9999-12-31T23:59:59-01:00"}, "time"),
        ({"session_id": SECRET, "expire_time": 46354}, "time"),
        ({"session_id": SECRET, "create_time": "9999-12-31T23:59:59Z"}, "future"),
        ({"session_id": SECRET, "create_time": (NOW + timedelta(hours=1)).isoformat()}, "future"),
        ({"session_id": SECRET, "expire_time": "2001-01-01T00:00:00Z"}, "expired"),
        ({"session_id": SECRET, "create_time": "2001-01-01T00:00:00Z"}, "expired"),
    ],
)
def test_what_is_no_session_is_refused_without_repeating_its_id(
    rules: SessionParser, given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RowRejected) as caught:
        rules.from_json(given)
    assert caught.value.reason == reason
    assert SECRET not in str(caught.value)
    assert caught.value.left_out == (reason == "expired")


def test_attributes_in_a_cell_are_json(rules: SessionParser) -> None:
    with pytest.raises(RowRejected) as caught:
        rules.from_csv({"session_id": SECRET, "attributes": SECRET})
    assert caught.value.reason == "attributes"
    assert SECRET not in str(caught.value)


def test_the_limits_are_those_of_the_proto() -> None:
    validate(GetSessionRequest(session_id="i" * sessions.MAX_ID))
    most = {name: "x" * limit for name, limit in inside.texts_of(sessions).items()}
    client = SessionClient(ip_address=most["ip_address"], user_agent=most["user_agent"])
    validate(Session(session_id="i", user_id=most["user_id"], client=client))
    for too_much in (
        GetSessionRequest(session_id="i" * (sessions.MAX_ID + 1)),
        Session(session_id="i", user_id=most["user_id"] + "x"),
        SessionClient(ip_address=most["ip_address"] + "x"),
        SessionClient(user_agent=most["user_agent"] + "x"),
    ):
        with pytest.raises(InvalidRequest):
            validate(too_much)
