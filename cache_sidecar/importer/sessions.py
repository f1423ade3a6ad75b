"""Imports sessions. The session ids that browsers hold stay valid."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock
from cache_sidecar.importer.fields import check_printable, check_text, fields_of
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.products import MAX_ATTRIBUTE_KEY_CHARACTERS, MAX_ITEM_CHARACTERS, MAX_ITEMS
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Header
from cache_sidecar.importer.spec import ImportSpec, ParseRow, Parts, TableRow
from cache_sidecar.importer.timestamps import LAST, past_timestamp, timestamp
from cache_sidecar.services.session import hash_of
from cache_sidecar.store.bulk import BulkSessions

REQUIRED = ("session_id",)
_TEXTS = {"user_id": 128, "ip_address": 64, "user_agent": 512}
_TIMES = ("create_time", "expire_time")
# The limits of protos/cache_sidecar/v1/session.proto; tests/unit/test_session_import.py compares the two.
MAX_ID = 256
CSV_HEADER = Header(dict.fromkeys((*REQUIRED, *_TEXTS, "attributes", *_TIMES), ()), REQUIRED)


class SessionParser:
    """Parses sessions; those without an expire_time expire by the policy."""

    def __init__(self, policy: DatasetPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock

    def from_csv(self, cells: Mapping[str, str]) -> TableRow:
        """Returns the columns of a CSV row; an empty cell counts as absent. Raises RowRejected."""
        values: dict[str, Any] = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
        if "attributes" in values:
            try:
                values["attributes"] = json.loads(values["attributes"])
            except (ValueError, RecursionError):
                raise RowRejected("attributes", 'attributes must be a JSON object such as {"theme": "dark"}') from None
        return self.from_json(values)

    def from_json(self, value: Mapping[str, Any]) -> TableRow:
        """Returns the columns of a JSON object; null counts as absent. Raises RowRejected."""
        given = fields_of(value, known=CSV_HEADER.names)
        texts = {name: check_printable(name, check_text(name, given.get(name, ""), most)) for name, most in _TEXTS.items()}
        attributes = json.dumps(_attributes(given.get("attributes", {})))
        return {"session_hash": _hash(given.get("session_id")), **texts, "attributes": attributes, **self._times(given)}

    def _times(self, given: Mapping[str, Any]) -> dict[str, datetime]:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        # Never in the future: the session would outlive max_lifetime.
        create_time = past_timestamp("create_time", given["create_time"], now) if "create_time" in given else now
        longest = timedelta(seconds=self._policy.max_lifetime or 100 * 365 * 86400)
        end_time = create_time + min(longest, LAST - create_time)
        unused = timedelta(seconds=self._policy.l2_ttl)
        expire_time = timestamp("expire_time", given["expire_time"]) if "expire_time" in given else now + unused
        if min(expire_time, end_time) <= now:
            raise RowRejected("expired", "is of an expired session", left_out=True)
        # use_time is chosen so that the session expires at expire_time, or at end_time if that is earlier.
        return {"create_time": create_time, "use_time": min(expire_time, end_time) - unused, "end_time": end_time}


def _hash(session_id: Any) -> str:
    # Messages must not contain any part of the id.
    if session_id is None or session_id == "":
        raise RowRejected("missing_field", "has no session_id")
    if not isinstance(session_id, str):
        raise RowRejected("wrong_type", "has a session_id that is not a string")
    if len(session_id) > MAX_ID or not session_id.isprintable():
        raise RowRejected("session_id", f"has a session_id of more than {MAX_ID} characters, or with unprintable ones")
    return hash_of(session_id)


def _attributes(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS["attributes"]:
        raise RowRejected("attributes", f"attributes must be an object of at most {MAX_ITEMS['attributes']} strings")
    for name, item in value.items():
        check_text("attribute name", name, MAX_ATTRIBUTE_KEY_CHARACTERS, required=True)
        check_text("attribute", item, MAX_ITEM_CHARACTERS["attributes"])
    return value


def _parsers(parts: Parts) -> Mapping[str, ParseRow]:
    parser = SessionParser(parts.policy(), parts.clock)
    return {CSV: parser.from_csv, JSON_LINES: parser.from_json}


# Sessions that exist, also ended ones, are left unchanged.
IMPORT = ImportSpec(name="sessions", bulk=BulkSessions, headers={CSV: CSV_HEADER}, parsers=_parsers, is_secret=True)
