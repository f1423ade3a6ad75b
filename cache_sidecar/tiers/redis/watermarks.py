"""What a relay and the sidecars of its region tell each other through Redis, beside the changes themselves."""

import asyncio
import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from cache_sidecar.core.errors import TierFailed
from cache_sidecar.tiers.ports import PARTITIONS, Primary, Watermark
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import checked
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.node import Address


class RedisWatermarks:
    """See `ports.RelayWatermarks`."""

    def __init__(self, connection: RedisClient, names: KeyNames) -> None:
        self._shards = connection.shards
        self._names = names
        self._counts = f"{names.library()[0]}_counts"
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    async def primaries(self) -> Sequence[Primary]:
        """Looks at every primary. Raises TierFailed when none answers."""
        # One that is no primary any more names the history it follows now.
        replies = await self._shards.ask_all("INFO", "replication")
        held = self._held()
        found = [Primary(address, _history(reply), frozenset(held.get(address, ()))) for address, reply in replies.items()]
        if all(primary.history is None for primary in found):
            for reply in replies.values():
                checked(reply)
        return found

    async def caught_up(self, roles: Sequence[str], moment: float, primaries: Sequence[Primary]) -> None:
        """Says in partitions, on the nodes given, that they were told of what was committed before a moment.

        Not sent on by a node that holds one of them no more: the other node is not the one that was looked at. Raises
        TierFailed when no node takes it.
        """
        value = f"{moment:.3f} {self._name} {next(self._numbers)}"
        marking = [self._write(primary, roles, value) for primary in primaries if primary.partitions]
        failed = [error for error in await asyncio.gather(*marking) if error is not None]
        if failed and len(failed) == len(marking):
            raise failed[0]

    async def _write(self, primary: Primary, roles: Sequence[str], value: str) -> TierFailed | None:
        commands = [("SET", self._names.told(role, partition), value) for role in roles for partition in primary.partitions]
        try:
            checked((await self._shards.ask_node(primary.address, commands))[0])
        except TierFailed as error:
            return error
        return None

    async def marks(self, roles: Sequence[str]) -> Mapping[str, Mapping[int, Watermark]]:
        """Returns the mark of each partition, by role; those without one, or that cannot be asked, are left out.

        Raises TierFailed when none can.
        """
        await self._shards.ready()
        held = self._held()
        replies = await asyncio.gather(*(self._read(address, roles, parts) for address, parts in held.items()))
        errors = [reply for reply in replies if isinstance(reply, TierFailed)]
        if errors and len(errors) == len(replies):
            raise errors[0]
        found: dict[str, dict[int, Watermark]] = {role: {} for role in roles}
        for partitions, values in zip(held.values(), replies, strict=True):
            if isinstance(values, TierFailed):
                continue
            subjects = [(role, partition) for role in roles for partition in partitions]
            for (role, partition), value in zip(subjects, values, strict=True):
                if mark := _mark(value):
                    found[role][partition] = mark
        return found

    async def _read(self, address: Address, roles: Sequence[str], partitions: Sequence[int]) -> Any:
        keys = [self._names.told(role, partition) for role in roles for partition in partitions]
        try:
            (values,) = await self._shards.ask_node(address, [("FCALL", self._counts, 0, *keys)])
            if isinstance(values, Exception):  # nobody has loaded our functions, or a partition has just moved
                values = await self._shards.ask_node(address, [("GET", key) for key in keys])
        except TierFailed as error:
            return error
        return values

    def _held(self) -> dict[Address, list[int]]:
        """Returns the partitions that each primary holds, as far as is known."""
        held: dict[Address, list[int]] = {}
        for partition in range(PARTITIONS):
            if (address := self._shards.holder(self._names.slot(partition))) is not None:
                held.setdefault(address, []).append(partition)
        return held


def _history(reply: Any) -> str | None:
    if isinstance(reply, Exception):
        return None
    lines = dict(line.partition(":")[::2] for line in reply.decode().splitlines())
    return str(lines["master_replid"])


def _mark(value: Any) -> Watermark | None:
    try:
        moment, by, number = value.decode().split(" ")
        return Watermark(float(moment), by, int(number))
    except (AttributeError, ValueError):
        return None  # none, or somebody else's
