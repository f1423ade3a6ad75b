"""The audit log: one line per call of AdminService, and lines for refused callers, whatever `log_level` is."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError, Message

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import AuditFailed, RoleMissing, SidecarError
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.server import status
from cache_sidecar.server.auth import Caller

# Seconds between two lines for refusals of one kind; the lines have the number of refusals since.
REFUSAL_EVERY = 1.0
# Kinds distinguished at a time; there are fewer, unless many tokens are refused at once. All above it count as one kind.
MAX_KINDS = 1000
# Addresses listed in one line.
MAX_HOSTS = 10

Describe = Callable[[str, Any], Mapping[str, object]]
"""Returns what may be logged of a request, given the method's name without its service: nothing personal."""

OnCall = Callable[[str, Mapping[str, object], Caller], None]


@dataclass
class _Refusals:
    """Refusals of one kind since the last line about it."""

    count: int = 0
    hosts: dict[str, None] = field(default_factory=dict)
    "Addresses that they came from, without ports: the first few, in order."
    last: Mapping[str, object] = field(default_factory=dict)
    "What is logged of the last one."


class Audit:
    """Writes the audit log of one sidecar."""

    def __init__(self) -> None:
        self._refusals: dict[tuple[str, ...], _Refusals] = {}
        self._limits: dict[tuple[str, ...], LogLimit] = defaultdict(lambda: LogLimit(every=REFUSAL_EVERY))
        self._unread: Counter[str] = Counter()
        self._followers: list[OnCall] = []

    def follow(self, on_call: OnCall) -> None:
        """Calls `on_call` with each call that was admitted and succeeded: the method, its arguments, and the caller."""
        self._followers.append(on_call)

    def record_refusal(self, method: str, error: SidecarError, context: Any) -> None:
        """Logs that a caller was refused, at most once a second for each reason, method, and name of a token or certificate.

        Methods are ours and names come from the configuration, so a caller cannot add kinds, and a flood of one kind does not
        hide the others. Callers without a valid token are one kind: its lines list their addresses. What a line left out is
        logged a second later, so that the last refusals of a flood count, too.
        """
        kind: tuple[str, ...] = (type(error).__name__, method)
        caller = error.caller if isinstance(error, RoleMissing) else ""
        if isinstance(error, RoleMissing):
            kind += (caller, error.has)
        if kind not in self._refusals and len(self._refusals) >= MAX_KINDS:
            kind = ()
        result, peer = status.of(error), context.peer()
        facts = {
            "method": method,
            "peer": peer,
            "caller": caller,
            "result": status.grpc_code(result).name,
            "reason": result.message,
        }
        if (since := self._refusals.get(kind)) is None:
            self._start(kind)
            _write("access refused", **facts, count=1)
            return
        since.count += 1
        since.last = facts
        if len(since.hosts) < MAX_HOSTS:
            since.hosts[peer.rpartition(":")[0] or peer] = None

    def _start(self, kind: tuple[str, ...]) -> None:
        self._refusals[kind] = _Refusals()
        asyncio.get_running_loop().call_later(REFUSAL_EVERY, self._log_since, kind)

    def _log_since(self, kind: tuple[str, ...]) -> None:
        since = self._refusals.pop(kind, None)
        if since is not None and since.count:
            self._start(kind)
            _write("access refused", **since.last, count=since.count, hosts=list(since.hosts))

    def close(self) -> None:
        """Logs the refusals that no line has yet: no more calls come."""
        for since in self._refusals.values():
            if since.count:
                _write("access refused", **since.last, count=since.count, hosts=list(since.hosts))
        self._refusals.clear()

    def record_overload(self, method: str, count: int) -> None:
        """Logs how many calls were refused under overload, before it was known who called; at most once a second per method."""
        self._unread[method] += count
        if self._limits["overload", method].should_log():
            telemetry.audit.info("admin calls refused under overload", method=method, count=self._unread.pop(method))

    def record_call(self, method: str, arguments: Mapping[str, object], caller: Caller, error: BaseException | None) -> None:
        """Logs a call that was admitted, with its result; `error` is None if it succeeded.

        Raises AuditFailed if a call that succeeded cannot be logged: its caller must not take it for an ordinary one.
        """
        if error is None:
            result: dict[str, object] = {"result": "OK"}
        elif isinstance(error, Exception):
            of = status.of(error)
            result = {"result": status.grpc_code(of).name, "reason": of.message}
        else:
            result = {"result": "CANCELLED"}
        problem = _write("admin call", method=method, **arguments, peer=caller.peer, caller=caller.name, **result)
        if error is None:
            for on_call in self._followers:
                on_call(method, arguments, caller)
        if problem and error is None:
            raise AuditFailed(problem)


def _write(event: str, **facts: object) -> str:
    """Writes a line; returns why it could not be written, such as `No space left on device`, or an empty text."""
    try:
        telemetry.audit.info(event, **facts)
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def arguments_of(method: str, data: bytes, deserialize: Callable[[bytes], Message], describe: Describe) -> Mapping[str, object]:
    """Returns what may be logged of a request; a request that cannot be parsed has no arguments."""
    try:
        return describe(method.rpartition("/")[2], deserialize(data))
    except DecodeError:
        return {}
