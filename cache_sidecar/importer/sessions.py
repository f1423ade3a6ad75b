"""What a row has to be to become a session, and the import of such rows: the ids that browsers hold go on working."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.importer.fields import check_printable, check_text, named
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.products import MAX_ATTRIBUTE_KEY_CHARACTERS, MAX_ITEM_CHARACTERS, MAX_ITEMS
from cache_sidecar.importer.progress import Progress
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Columns
from cache_sidecar.importer.report import ImportReport
from cache_sidecar.importer.run import ImportSpec, import_rows
from cache_sidecar.importer.timestamps import LAST, moment, past_moment
from cache_sidecar.services.session import hash_of
from cache_sidecar.store.bulk import BulkSessions

REQUIRED = ("session_id",)
_TEXTS = {"user_id": 128, "ip_address": 64, "user_agent": 512}
_TIMES = ("create_time", "expire_time")
# The limits of protos/cache_sidecar/v1/session.proto; tests/unit/test_session_import.py compares the two.
MAX_ID = 256
CSV_COLUMNS = Columns(dict.fromkeys((*REQUIRED, *_TEXTS, "attributes", *_TIMES), ()), REQUIRED)

Session = dict[str, Any]


async def import_sessions(
    *,
    source: str,
    dsn: str,
    format: str | None,
    rejects: Path | None,
    progress: Progress | None,
    policy: DatasetPolicy,
    clock: Clock | None = None,
) -> ImportReport:
    """Imports sessions; see `importer.run.import_rows`. One that is there already stays as it is, ended ones included.

    The rows are secrets: of those that are rejected, only the lines' numbers are kept.
    """
    rules = SessionRules(policy, clock or SystemClock())
    sessions = ImportSpec(
        name="sessions",
        bulk=BulkSessions,
        dialects={CSV: CSV_COLUMNS},
        rules={CSV: rules.from_csv, JSON_LINES: rules.from_json},
        is_secret=True,
    )
    return await import_rows(sessions, source=source, dsn=dsn, format=format, rejects=rejects, progress=progress)


class SessionRules:
    """Makes rows of sessions, which end as the policy says unless they say it."""

    def __init__(self, policy: DatasetPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock

    def from_csv(self, cells: Mapping[str, str]) -> Session:
        """Returns the columns of a CSV row; empty is as if absent. Raises RowRejected."""
        values: dict[str, Any] = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
        if "attributes" in values:
            try:
                values["attributes"] = json.loads(values["attributes"])
            except (ValueError, RecursionError):
                raise RowRejected("attributes", 'has attributes that are no JSON object such as {"theme": "dark"}') from None
        return self.from_json(values)

    def from_json(self, value: Mapping[str, Any]) -> Session:
        """Returns the columns of a JSON object; null is as if absent. Raises RowRejected."""
        given = named(value, known=CSV_COLUMNS.names)
        texts = {name: check_printable(name, check_text(name, given.get(name, ""), most)) for name, most in _TEXTS.items()}
        attributes = json.dumps(_attributes(given.get("attributes", {})))
        return {"session_hash": _hash(given.get("session_id")), **texts, "attributes": attributes, **self._times(given)}

    def _times(self, given: Mapping[str, Any]) -> dict[str, datetime]:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        # None was made in the future: it would outlive max_lifetime.
        create_time = past_moment("create_time", given["create_time"], now) if "create_time" in given else now
        longest = timedelta(seconds=self._policy.max_lifetime or 100 * 365 * 86400)
        end_time = create_time + min(longest, LAST - create_time)
        unused = timedelta(seconds=self._policy.l2_ttl)
        expire_time = moment("expire_time", given["expire_time"]) if "expire_time" in given else now + unused
        if min(expire_time, end_time) <= now:
            raise RowRejected("expired", "is of a session that is over", left_out=True)
        # As if it was used when an expiry like that follows from it. What never expires does so at its end.
        return {"create_time": create_time, "use_time": min(expire_time, end_time) - unused, "end_time": end_time}


def _hash(session_id: Any) -> str:
    # No message here may repeat any of it.
    if session_id is None or session_id == "":
        raise RowRejected("missing_field", "has no session_id")
    if not isinstance(session_id, str):
        raise RowRejected("wrong_type", "has a session_id that is not a string")
    if len(session_id) > MAX_ID or not session_id.isprintable():
        raise RowRejected(
            "session_id", f"has a session_id of more than {MAX_ID} characters, or with some that cannot be printed"
        )
    return hash_of(session_id)


def _attributes(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS["attributes"]:
        raise RowRejected("attributes", f"needs an object of at most {MAX_ITEMS['attributes']} texts as attributes")
    for name, item in value.items():
        check_text("attribute name", name, MAX_ATTRIBUTE_KEY_CHARACTERS, required=True)
        check_text("attribute", item, MAX_ITEM_CHARACTERS["attributes"])
    return value
