"""The relay's watermarks in Redis: up to when everything committed has been published, in each partition."""

import asyncio
import itertools
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import TierFailed
from cache_sidecar.core.log_limit import LogLimit
from cache_sidecar.tiers.ports import PARTITIONS, Primary, Watermark
from cache_sidecar.tiers.redis.client import RedisClient
from cache_sidecar.tiers.redis.cluster import unwrap
from cache_sidecar.tiers.redis.keys import KeyNames
from cache_sidecar.tiers.redis.macs import Macs
from cache_sidecar.tiers.redis.node import Address
from cache_sidecar.tiers.redis.reading import NodeReader

# Seconds between two log lines about watermarks without a valid MAC.
LOG_EVERY = 60.0


class RedisWatermarks:
    """See `ports.RelayWatermarks`."""

    def __init__(self, connection: RedisClient, names: KeyNames, *, macs: Macs | None = None) -> None:
        """With `macs`, watermarks are signed, and those of other programs are not read."""
        self._macs = macs
        self._limit = LogLimit(every=LOG_EVERY)
        self._cluster = connection.cluster
        self._names = names
        self._readers: dict[Address, NodeReader] = {}
        self._name = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    async def primaries(self) -> Sequence[Primary]:
        """Returns every primary. Raises TierFailed when none answers."""
        # A node that has become a replica returns the history of its new primary.
        answers = await self._cluster.ask_all([("INFO", "replication")])
        replies = {address: reply for address, (reply,) in answers.items()}
        held = self._partitions_by_node()
        found = [Primary(address, _history(reply), frozenset(held.get(address, ()))) for address, reply in replies.items()]
        if all(primary.history is None for primary in found):
            for reply in replies.values():
                unwrap(reply)
        return found

    async def write_watermarks(self, roles: Sequence[str], moment: float, primaries: Sequence[Primary]) -> None:
        """Writes into the partitions of primaries that everything committed before a moment has been published there.

        Redirections are not followed: the other node is not the one that was inspected, and may lack changes. Raises TierFailed
        when no node accepts it.
        """
        value = f"{moment:.3f} {self._name} {next(self._numbers)}"
        marking = [self._write(primary, roles, value) for primary in primaries if primary.partitions]
        failed = [error for error in await asyncio.gather(*marking) if error is not None]
        if failed and len(failed) == len(marking):
            raise failed[0]

    async def _write(self, primary: Primary, roles: Sequence[str], value: str) -> TierFailed | None:
        keys = [self._names.watermark(role, partition) for role in roles for partition in primary.partitions]
        macs = self._macs
        commands = [("SET", key, value if macs is None else f"{value} {macs.sign(key, value.encode()).hex()}") for key in keys]
        try:
            unwrap((await self._cluster.ask_node(primary.address, commands))[0])
        except TierFailed as error:
            return error
        return None

    async def read_watermarks(self, roles: Sequence[str], *, shared: bool = False) -> Mapping[str, Mapping[int, Watermark]]:
        """Returns the watermark of each partition, by role, without those that have none or do not answer.

        With `shared`, those that another sidecar may have read just before. Raises TierFailed when none can.
        """
        await self._cluster.ready()
        held = self._partitions_by_node()
        replies = await asyncio.gather(*(self._read(address, roles, parts, shared=shared) for address, parts in held.items()))
        errors = [reply for reply in replies if isinstance(reply, TierFailed)]
        if errors and len(errors) == len(replies):
            raise errors[0]
        found: dict[str, dict[int, Watermark]] = {role: {} for role in roles}
        for partitions, values in zip(held.values(), replies, strict=True):
            if isinstance(values, TierFailed):
                continue
            subjects = [(role, partition) for role in roles for partition in partitions]
            for (role, partition), value in zip(subjects, values, strict=True):
                if mark := self._parse(self._names.watermark(role, partition), value):
                    found[role][partition] = mark
        return found

    async def _read(self, address: Address, roles: Sequence[str], partitions: Sequence[int], *, shared: bool) -> Any:
        keys = [self._names.watermark(role, partition) for role in roles for partition in partitions]
        reader = self._readers.get(address)
        if reader is None or reader.keys != keys:
            reader = self._readers[address] = NodeReader(self._names, keys, partitions[0])
        try:
            found = await reader.read(partial(self._cluster.ask_node, address), shared=shared)
            # The script is refused: it is not loaded, or a partition has just moved.
            return found[0].values if found else await self._cluster.ask_node(address, [("GET", key) for key in keys])
        except TierFailed as error:
            return error

    def _parse(self, key: str, value: Any) -> Watermark | None:
        """Returns the watermark; None if there is none, or another program wrote it."""
        try:
            moment, by, number, *mac = value.decode().split(" ")
            watermark = Watermark(float(moment), by, int(number))
            signature = bytes.fromhex(mac[0]) if mac else b""
        except (AttributeError, ValueError):
            return None
        if self._macs is None or self._macs.is_valid(signature, key, f"{moment} {by} {number}".encode()):
            return watermark
        if self._limit.should_log():
            telemetry.log.error(
                "ignoring watermarks without a valid MAC: another program wrote them, or a relay without these keys",
                since_last=self._limit.count,
            )
        return None

    def _partitions_by_node(self) -> dict[Address, list[int]]:
        """Returns the partitions that each primary holds, as far as is known."""
        held: dict[Address, list[int]] = {}
        for partition in range(PARTITIONS):
            if (address := self._cluster.holder(self._names.slot(partition))) is not None:
                held.setdefault(address, []).append(partition)
        return held


def _history(reply: Any) -> str | None:
    if isinstance(reply, Exception):
        return None
    lines = dict(line.partition(":")[::2] for line in reply.decode().splitlines())
    return str(lines["master_replid"])
