"""From figures to memory, statements and money."""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from cache_sidecar.estimate.formulas import L1_OVERHEAD, REDIS_OVERHEAD, SESSION_OVERHEAD, Reads, popularity, read_products
from cache_sidecar.estimate.inputs import Inputs

MIB, GIB = 1 << 20, 1 << 30
DAY, MONTH = 86_400, 30 * 86_400
# MiB of a sidecar besides its L1: the process, and what its clients can take (k8s/README.md).
PROCESS, CLIENTS = 100, 136
# Two relays in each region, and MiB of each.
RELAYS, RELAY = 2, 96
# Masters of the smallest Redis cluster.
_FEWEST = 3


class Report(NamedTuple):
    """The result. Money is of one month."""

    inputs: Inputs
    mean: Reads
    "Of one region."
    peak: Reads
    l1_bytes: float
    "Of one sidecar."
    pod_bytes: float
    "Memory that a sidecar uses, without what clients may take."
    limit_mib: int
    "The memory limit that it needs."
    redis_bytes: float
    "Of one region."
    redis_nodes: int
    "Of one region, replicas included."
    statements_before: float
    "A month, of all regions: one per read."
    statements_after: float
    cores_saved: float
    "Of PostgreSQL, in the busiest hour."
    cost: float
    saving: float

    @property
    def payback_months(self) -> float | None:
        """Months until the introduction is paid for; None if it never is."""
        net = self.saving - self.cost
        return self.inputs.prices.setup / net if net > 0 else None

    def lines(self) -> Sequence[str]:
        """Returns what the command prints."""
        shop, prices = self.inputs.shop, self.inputs.prices
        mean, peak, before, after = self.mean, self.peak, self.statements_before, self.statements_after
        months, money = self.payback_months, prices.currency
        rows = [
            ("reads of products in a region", f"{mean.reads:,.0f} a second, {peak.reads:,.0f} in the busiest hour"),
            ("hits in memory", f"{mean.l1_hit_ratio:.1%}, {peak.l1_hit_ratio:.1%} in the busiest hour"),
            ("loads from Redis", f"{mean.l2:,.1f} a second"),
            ("loads from PostgreSQL", f"{mean.store:,.1f} a second"),
            ("memory of a sidecar", f"{self.pod_bytes / MIB:,.0f} MiB, of which values {self.l1_bytes / MIB:,.0f}"),
            ("its memory limit", f"{self.limit_mib:,} MiB"),
            ("Redis in a region", f"{self.redis_bytes / MIB:,.0f} MiB on {self.redis_nodes} nodes"),
            ("PostgreSQL reads a month", f"{before:,.0f} without, {after:,.0f} with"),
            ("saved of them", f"{(before - after) / before if before else 0:.1%}"),
            ("PostgreSQL cores saved", f"{self.cores_saved:.2f} in the busiest hour"),
            ("cost a month", f"{self.cost:,.0f} {money}"),
            ("saving a month", f"{self.saving:,.0f} {money}, of which {prices.other_saving:,.0f} is `other_saving`"),
            (
                "payback",
                "never, with these figures" if months is None else f"{months:,.1f} months for {prices.setup:,.0f} {money}",
            ),
        ]
        pods = self.inputs.deployment.pods_per_region
        head = f"{shop.products:,} products, {shop.daily_users:,} users a day, {shop.regions} regions with {pods} pods each"
        return [head, "", *(f"{name:<32}{value}" for name, value in rows)]


def estimate(inputs: Inputs) -> Report:
    """Computes a report."""
    shop, ttl, deployment, prices = inputs.shop, inputs.ttl, inputs.deployment, inputs.prices
    users = shop.daily_users / shop.regions
    groups = popularity(shop.products, shop.skew)
    entry = l1_entry_bytes(inputs)
    capacity = deployment.l1_mib * MIB / entry
    mean, peak = (
        read_products(
            groups,
            factor * users * shop.product_reads_per_user / DAY,
            pods=deployment.pods_per_region,
            soft=ttl.l1_soft,
            hard=max(ttl.l1_soft, ttl.l1_hard),
            l2_ttl=ttl.l2,
            capacity=capacity,
        )
        for factor in (1.0, shop.peak)
    )
    l1 = peak.l1_entries * entry
    redis = redis_bytes(inputs, products=peak.l2_entries)
    primaries = max(_FEWEST, ceil(redis / (deployment.redis_node_gib * GIB * deployment.redis_fill)))
    nodes = primaries * (1 + deployment.redis_replicas)

    others = shop.session_reads_per_user + shop.cart_reads_per_user + shop.stock_reads_per_user
    before = users * (shop.product_reads_per_user + others) / DAY
    after = mean.store + _other_loads(inputs, users) / DAY
    peak_saved = shop.peak * before - peak.store - shop.peak * _other_loads(inputs, users) / DAY
    cores = shop.regions * peak_saved / deployment.postgres_statements_per_core

    pods = shop.regions * deployment.pods_per_region
    pod_bytes = PROCESS * MIB + l1
    memory_gib = (pods * pod_bytes + shop.regions * RELAYS * RELAY * MIB) / GIB
    sidecar_cores = shop.regions * shop.peak * before / deployment.calls_per_core
    cost = memory_gib * prices.memory_gib + sidecar_cores * prices.core + shop.regions * nodes * prices.redis_node
    return Report(
        inputs,
        mean,
        peak,
        l1,
        pod_bytes,
        # Limits are set in steps.
        32 * ceil((PROCESS + CLIENTS + min(deployment.l1_mib, l1 / MIB)) / 32),
        redis,
        nodes,
        shop.regions * before * MONTH,
        shop.regions * after * MONTH,
        cores,
        cost,
        cores * prices.postgres_core + prices.other_saving,
    )


def l1_entry_bytes(inputs: Inputs) -> float:
    """Returns the mean size of a product in memory."""
    return L1_OVERHEAD[inputs.deployment.engine] + inputs.bytes.id + inputs.bytes.product


def redis_bytes(inputs: Inputs, *, products: float) -> float:
    """Returns what a region's Redis holds in the busiest hour, when so many products are in it."""
    shop, size, ttl = inputs.shop, inputs.bytes, inputs.ttl
    users = shop.daily_users / shop.regions
    # Little's law: how many a day, times how long each stays.
    sessions = users * shop.sessions_per_user * shop.peak * (60 * shop.session_minutes + ttl.session) / DAY
    carts = users * shop.carts_per_user * ttl.cart / DAY
    stocks = min(shop.products, users * shop.stock_reads_per_user * shop.peak * ttl.stock / DAY)
    held = ((products, size.product), (carts, size.cart), (stocks, size.stock))
    kept = sum(count * (REDIS_OVERHEAD + size.id + value) for count, value in held)
    return kept + sessions * (SESSION_OVERHEAD + size.session)


def _other_loads(inputs: Inputs, users: float) -> float:
    """Returns reads of PostgreSQL a day in a region that sessions, carts and stocks still need."""
    shop, ttl = inputs.shop, inputs.ttl
    sessions = min(shop.session_reads_per_user, shop.sessions_per_user)
    carts = min(shop.cart_reads_per_user, shop.carts_per_user)
    # A stock is read again when it has expired; evenly spread reads are the worst case.
    rate = users * shop.stock_reads_per_user / DAY / shop.products
    stocks = shop.products * DAY * rate / (1 + rate * ttl.stock)
    return users * (sessions + carts) + stocks
