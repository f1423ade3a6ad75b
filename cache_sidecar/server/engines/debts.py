"""What callers owe grpc.aio: messages that do not come, and replies that they do not read.

C-core bounds neither over all connections. A call whose message has not come, or whose reply waits for its reader, is looked at
every few milliseconds; one that was seen so several times counts. When those that count take too much together, the connections
that owe most are shut down. Honest callers are hardly ever seen so: their message comes with the headers, and they read.

How many calls come between two looks depends on the speed of the machine. So it is also looked, and every call counts, when too
many are without their message.
"""

import asyncio
import contextlib
import socket
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cache_sidecar.core import telemetry

# Seconds for a request to arrive, from its headers on. As in `native/src/limits.rs`.
BODY_WITHIN = 10.0
# Bytes that calls may owe, apart from those that have just begun to.
MAX_OWED = 24 << 20
# About what C-core and Python have for a call, and what C-core accepts of a message before it is complete, as a rule.
CALL_BYTES = 24 << 10
MESSAGE_BYTES = 256 << 10
# Seconds between two looks, and the number of looks after which a call counts. Between two, a busy event loop learns what came.
LOOK_EVERY = 0.02
LOOKS = 3
# Calls that may be without their message. In a burst of thousands ten are: each leaves while the next ones are accepted.
MAX_WITHOUT_MESSAGE = 200

_FILES = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")


class Debt:
    """A call, and what its caller owes."""

    __slots__ = ("can_be_ended", "has_message", "is_late", "owed", "peer", "seen", "since", "task", "unread")

    def __init__(self, peer: str, task: asyncio.Task[Any], since: float) -> None:
        self.peer = peer
        self.task = task
        self.since = since
        "When it began."
        self.owed = CALL_BYTES + MESSAGE_BYTES
        "Bytes that only the caller can free: at first, until its message has come."
        self.can_be_ended = peer.startswith(("ipv4:", "ipv6:"))
        "Whether its connection can be found: not one by a Unix socket, such as the native engine's."
        self.has_message = False
        self.unread = 0
        "Bytes of its reply."
        self.seen = 0
        "How often it was seen to owe something."
        self.is_late = False
        "Whether its message did not come in time."


class IndebtedContext:
    """The context of a call that counts what it is refused with as a reply, until its caller has read it."""

    __slots__ = ("_context", "_debt", "_debts")

    def __init__(self, context: Any, debt: Debt, debts: "Debts") -> None:
        self._context = context
        self._debt = debt
        self._debts = debts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, *arguments: Any, **options: Any) -> None:
        """Ends the call with a status."""
        self._debts.reply(self._debt, 0)
        await self._context.abort(*arguments, **options)


class Debts:
    """The calls in progress of a server."""

    def __init__(self) -> None:
        self._debts: set[Debt] = set()
        self._without_message = 0
        self._ended: set[str] = set()
        "Callers whose connections were ended, until their last call has."
        self.unread: Counter[str] = Counter()
        "Bytes of replies that wait for their readers, by the caller's address."
        self._looking: asyncio.TimerHandle | None = None

    def begin(self, peer: str) -> Debt:
        """Begins a call, in its task; it ends with the task, when its reply is sent or its caller is gone.

        Raises CancelledError when the caller's connection was ended.
        """
        if peer in self._ended:
            raise asyncio.CancelledError
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        debt = Debt(peer, task, loop.time())
        self._debts.add(debt)
        self._without_message += debt.can_be_ended
        task.add_done_callback(lambda _: self._end(debt))
        if self._without_message > MAX_WITHOUT_MESSAGE:
            self._collect(list(self._debts))
        if self._looking is None:
            self._looking = loop.call_later(LOOK_EVERY, self._look)
        return debt

    def settle(self, debt: Debt) -> None:
        """Records that the message of a call has come, or need not come any more."""
        debt.owed = debt.seen = 0
        self._without_message -= debt.can_be_ended and not debt.has_message
        debt.has_message = True

    def reply(self, debt: Debt, size: int) -> None:
        """Records that a reply of so many bytes waits for its reader."""
        debt.owed, debt.seen, debt.unread = CALL_BYTES + 2 * size, 0, size  # C-core keeps it twice
        self.unread[debt.peer] += size

    def _end(self, debt: Debt) -> None:
        self.settle(debt)
        self._debts.discard(debt)
        if debt.unread:
            self.unread[debt.peer] -= debt.unread
            if not self.unread[debt.peer]:
                del self.unread[debt.peer]
        if debt.peer in self._ended and not any(other.peer == debt.peer for other in self._debts):
            self._ended.discard(debt.peer)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = []
        for debt in self._debts:
            if debt.owed:
                debt.seen += 1
                if debt.seen >= LOOKS:
                    late.append(debt)
                if not debt.has_message and now - debt.since > BODY_WITHIN and not debt.is_late:
                    debt.is_late = True
                    debt.task.cancel()
        self._collect(late)
        self._looking = loop.call_later(LOOK_EVERY, self._look) if self._debts else None

    def _collect(self, debts: Iterable[Debt]) -> None:
        """Ends the connections of those who owe most, if these debts are too much together."""
        owed: Counter[str] = Counter()
        for debt in debts:
            if debt.can_be_ended:
                owed[debt.peer] += debt.owed
        if owed.total() <= MAX_OWED:
            return
        worst = _worst(owed)
        self._ended |= worst
        _shut_down(worst)
        for debt in self._debts:
            # C-core tells each call of its end, one after the other, while those of others come in.
            if debt.peer in worst:
                self.settle(debt)
                debt.task.cancel()


def _worst(owed: Counter[str]) -> set[str]:
    """Returns the callers without whom the others owe little enough."""
    left, worst = owed.total(), set[str]()
    for peer, size in owed.most_common():
        if left <= MAX_OWED:
            break
        worst.add(peer)
        left -= size
    return worst


def _shut_down(peers: set[str]) -> None:
    """Shuts down the TCP connections of these callers: C-core has no such function, but sees them end."""
    addresses = {address for peer in peers if (address := _address(peer))}
    ended = 0
    for file in _FILES.iterdir():
        # Another thread may close it meanwhile; most are no sockets, or not connected.
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=int(file.name))
            try:
                if connection.family != socket.AF_UNIX and _of_socket(connection) in addresses:
                    connection.shutdown(socket.SHUT_RDWR)
                    ended += 1
            finally:
                connection.detach()  # it is C-core's to close
    telemetry.log.warning("connections ended: their callers send no messages, or read no replies", count=ended)


def _of_socket(connection: socket.socket) -> tuple[str, int]:
    """Returns host and port of a socket's peer. C-core accepts IPv4 by sockets of IPv6, and says IPv4."""
    host, port = connection.getpeername()[:2]
    return host.removeprefix("::ffff:"), port


def _address(peer: str) -> tuple[str, int] | None:
    """Returns host and port of a peer such as `ipv4:127.0.0.1:4711`; None for one without."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    return (host.strip("[]"), int(port)) if kind in {"ipv4", "ipv6"} and port.isdecimal() else None
