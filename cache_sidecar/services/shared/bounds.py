"""How large a reply may be: what clients accept, 4 MiB by default; see the setting `max_message_bytes`."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import ReplyTooLarge
from cache_sidecar.store.pages import Page
from cache_sidecar.store.writes import WriteResult

R = TypeVar("R")
M = TypeVar("M", bound=Message)

# Bytes of a reply besides one resource: a page token of up to 2,048 characters, metadata, an expiry, tags and lengths.
BESIDE = 2560
# Bytes of a repeated field's tag and length.
_HEAD = 6
# Seconds between two lines in the log about what no page can hold.
_LOG_EVERY = 60.0


class Fitting(NamedTuple, Generic[R, M]):
    """The part of a page that fits into a reply."""

    rows: Sequence[R]
    "Rows that this page covers; the next page continues after the last of them."
    messages: Sequence[M]
    is_last: bool


class Bound:
    """Limits replies before they are built, and what is stored to what can be read."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.room = max_bytes - BESIDE
        "Bytes that one resource, or all resources of a page, may have."
        self._logged = -_LOG_EVERY

    def check(self, size: int) -> None:
        """Raises ReplyTooLarge when a reply of so many bytes exceeds the limit."""
        if size > self.max_bytes:
            raise ReplyTooLarge(size, self.max_bytes)

    def check_resource(self, size: int) -> None:
        """Raises ReplyTooLarge when a resource of so many bytes could not be read once it is stored."""
        if size > self.room:
            raise ReplyTooLarge(size + BESIDE, self.max_bytes)

    def check_result(self, result: WriteResult[Any]) -> None:
        """As `check_resource`, for the reply of a write and every entry that it leaves in the caches."""
        self.check_resource(len(result.reply))
        for change in result.changes:
            if change.entry is not None:
                self.check_resource(len(change.entry))

    def page(self, page: Page[R], size: int, message: Callable[[R], M | None]) -> Fitting[R, M]:
        """Makes the messages of a page of up to `size` rows, as many as fit.

        Rows that cannot be read, and so have no message, and rows too large for any reply are left out: or no caller would
        get to the rows after them.
        """
        messages: list[M] = []
        done, left = 0, self.room
        for row in page.rows[:size]:
            made = message(row)
            bytes_ = made.ByteSize() + _HEAD if made is not None else 0
            if bytes_ > left and bytes_ <= self.room:
                break
            if made is not None and bytes_ > self.room:
                self._log(bytes_, made)
            elif made is not None:
                messages.append(made)
                left -= bytes_
            done += 1
        return Fitting(page.rows[:done], messages, done == page.there)

    def _log(self, size: int, made: Message) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY:
            self._logged = now
            kind: Any = made.DESCRIPTOR.name
            telemetry.log.warning(
                "skipped in a listing: larger than max_message_bytes", kind=kind, size=size, limit=self.max_bytes
            )
