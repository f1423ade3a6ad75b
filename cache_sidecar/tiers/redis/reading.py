"""Reads one key of each partition of a node with one command, which the sidecars of a fleet share.

Reading a hundred keys and the state of the replication costs Redis 100 us, and every sidecar asks every node for that several
times a second. So who has it read leaves it in Redis for SHARED_MS, and the others get that.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.scripts import SCRIPTS

# Milliseconds for which a reading is shared; and seconds that rounding to milliseconds may hide of its age.
SHARED_MS = 50
ROUNDED = 0.001
# To share is to write. A node that answers reads only, as in CLIENT PAUSE WRITE, would be asked in vain each time, so after one
# without an answer, so many readings are not shared.
ALONE = 240


class Reading(NamedTuple):
    """What was read of a node."""

    role: str
    history: str
    "Its replication id."
    values: Sequence[bytes]
    "In the order of the keys; empty for a key that does not exist."


Ask = Callable[[Sequence[tuple[object, ...]]], Awaitable[Sequence[Any]]]
"Sends commands to a node together, and returns the replies; a refusal is among them."


class NodeReader:
    """Reads keys of one node."""

    def __init__(self, names: KeyNames, keys: Sequence[str], partition: int) -> None:
        """`partition` is one of those that the node holds: the reading is shared in its slot."""
        self.keys = keys
        self._joined = " ".join(keys).encode()
        self._place = names.reading(partition, self._joined)
        self._is_shared = False
        "Whether the last reading was another's: then there is probably one now, and to look costs Redis half of the script."
        self._alone = 0
        "The next so many readings are not shared."
        self._last: tuple[bytes, Reading] | None = None

    def look(self) -> Sequence[tuple[object, ...]]:
        """Returns the commands that get another's reading.

        Its age first: if it is replaced in between, the new one is taken for older than it is, not the old one for newer.
        """
        return ("PTTL", self._place), ("GET", self._place)

    def make(self, *, shared: bool) -> tuple[object, ...]:
        """Returns the command that has the keys read, unless with `shared` there is another's reading by now."""
        if shared:
            return SCRIPTS["shared_reading"](self._place, self._joined, SHARED_MS, keys=1)
        return SCRIPTS["own_reading"](self._place, self._joined, keys=1)

    async def read(self, ask: Ask, *, shared: bool) -> tuple[Reading, float] | None:
        """Returns what was read, the same object while nothing changes, and how many seconds before the question, at most.

        Without `shared`, that is 0. Returns None if the script is refused, or a value has several lines.
        """
        if shared and self._is_shared:
            left, lines = await ask(self.look())
            if isinstance(lines, bytes) and isinstance(left, int) and 0 <= left <= SHARED_MS:
                return self._parse(lines, SHARED_MS - left)
        if shared and self._alone:
            self._alone -= 1
            shared = False
        if shared:
            self._alone = ALONE  # until there is an answer
        (reply,) = await ask([self.make(shared=shared)])
        if shared:
            self._alone = 0
        if isinstance(reply, Exception):
            return None
        lines, ms = reply
        self._is_shared = ms >= 0
        return self._parse(lines, ms)

    def _parse(self, lines: bytes, ms: int) -> tuple[Reading, float] | None:
        if self._last is None or self._last[0] != lines:
            role, history, *values = lines.split(b"\n")
            if len(values) != len(self.keys):
                return None
            self._last = lines, Reading(role.decode(errors="replace"), history.decode(errors="replace"), values)
        return self._last[1], ms / 1000 + ROUNDED if ms >= 0 else 0.0
