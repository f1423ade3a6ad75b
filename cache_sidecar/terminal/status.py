"""`cache-sidecar status`: whether a sidecar is well, and if not, what fails and why."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from cache_sidecar.terminal import table
from cache_sidecar.terminal.access import TIMEOUT, Access
from cache_sidecar.tiers.ports import PARTITIONS
from cache_sidecar.v1 import admin_service_pb2 as pb
from cache_sidecar.v1.admin_service_pb2_grpc import AdminServiceStub

TIERS = ("l1", "l2", "store")


class Counts(NamedTuple):
    """The counters of one dataset."""

    l1: int
    l2: int
    store: int
    "Reads that each tier answered."
    errors: int
    "Of all tiers."
    entries: int
    bytes: int
    "In memory, now."

    @property
    def reads(self) -> int:
        """All reads that were answered."""
        return self.l1 + self.l2 + self.store


class Status(NamedTuple):
    """What a sidecar says of itself."""

    is_serving: bool
    stats: pb.GetStatsResponse

    def counts(self) -> dict[str, Counts]:
        """Returns the counters by dataset."""
        rows: dict[str, dict[str, pb.TierStats]] = {}
        for row in self.stats.tiers:
            rows.setdefault(row.dataset, {})[row.tier] = row
        empty = pb.TierStats()
        found = {}
        for name, by_tier in rows.items():
            l1, l2, store = (by_tier.get(tier, empty) for tier in TIERS)
            errors = l1.errors + l2.errors + store.errors
            found[name] = Counts(l1.hits, l2.hits, store.hits, errors, l1.entries, l1.bytes)
        return found

    def problems(self) -> list[str]:
        """Returns what fails, one line each; nothing if all is well."""
        found = [] if self.is_serving else ["the sidecar is not serving: it is stopping"]
        for one in self.stats.degradations:
            since = one.since_time.ToJsonString()
            found.append(f"{one.what} {one.which}".rstrip() + f": {one.effect}; since {since}: {one.reason}")
        fresh = self.stats.sidecar.partitions_fresh
        if fresh < PARTITIONS and not any(one.what == "invalidations" for one in self.stats.degradations):
            found.append(f"invalidations: only those of {fresh} of {PARTITIONS} partitions are known to be received")
        if self.stats.policy.last_error:
            found.append(f"policy file: {self.stats.policy.last_error}")
        return found

    def lines(self) -> Iterator[str]:
        """Yields what to print."""
        me, problems = self.stats.sidecar, self.problems()
        yield f"{'serving' if self.is_serving else 'NOT SERVING'}, {f'{len(problems)} failing' if problems else 'all well'}"
        for problem in problems:
            yield f"FAILS  {problem}"
        uptime = table.seconds(_seconds(me.uptime))
        yield f"version        {me.version}, engine {me.engine}, up {uptime}, policy version {self.stats.policy.version}"
        delay = table.seconds(_seconds(me.invalidation_delay)) if me.HasField("invalidation_delay") else "not measured"
        yield f"invalidations  {me.partitions_fresh} of {PARTITIONS} partitions fresh, delay {delay}"
        lags = ", ".join(f"{role} {table.seconds(_seconds(lag))}" for role, lag in sorted(me.relay_lags.items()))
        yield f"relay lag      {lags}"
        counts = self.counts()
        used = sum(one.bytes for one in counts.values())
        yield f"memory (L1)    {table.share(used, me.l1_max_bytes)} of {me.l1_max_bytes / 1e6:,.0f} MB"
        yield ""
        rows = [["dataset", "hit ratio", "L1", "L2", "store", "errors", "entries", "MB"]]
        for name, one in counts.items():
            numbers = [f"{number:,}" for number in (one.l1, one.l2, one.store, one.errors, one.entries)]
            rows.append([name, table.share(one.l1 + one.l2, one.reads), *numbers, f"{one.bytes / 1e6:,.1f}"])
        yield from table.lines(rows)

    def as_json(self) -> dict[str, Any]:
        """Returns the same for programs; times in seconds, ratios from 0 to 1 or null."""
        me = self.stats.sidecar
        return {
            "serving": self.is_serving,
            "problems": self.problems(),
            "version": me.version,
            "engine": me.engine,
            "uptime": _seconds(me.uptime),
            "policy_version": self.stats.policy.version,
            "partitions_fresh": me.partitions_fresh,
            "partitions": PARTITIONS,
            "invalidation_delay": _seconds(me.invalidation_delay) if me.HasField("invalidation_delay") else None,
            "relay_lag": {role: _seconds(lag) for role, lag in sorted(me.relay_lags.items())},
            "l1_max_bytes": me.l1_max_bytes,
            "datasets": {
                name: one._asdict() | {"hit_ratio": (one.l1 + one.l2) / one.reads if one.reads else None}
                for name, one in self.counts().items()
            },
        }


def _seconds(duration: Any) -> float:
    return float(duration.ToNanoseconds()) / 1e9


async def read(access: Access, channel: Any) -> Status:
    """Asks a sidecar. Raises ServerUnreachable and SidecarError."""
    more: dict[str, Any] = {"timeout": TIMEOUT, "metadata": access.metadata}
    health: Any = HealthStub(channel)
    admin: Any = AdminServiceStub(channel)
    reply = await access.ask(health.Check(HealthCheckRequest(), **more))
    stats = await access.ask(admin.GetStats(pb.GetStatsRequest(), **more))
    return Status(reply.status == HealthCheckResponse.SERVING, stats)
