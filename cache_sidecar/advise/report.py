"""What `advise` prints: tables, what it recommends, and the lines that a person may apply. It applies nothing itself."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cache_sidecar.advise import model
from cache_sidecar.advise.model import Dataset, Outcome
from cache_sidecar.advise.period import Period
from cache_sidecar.datasets import ALL
from cache_sidecar.metrics import definitions as d
from cache_sidecar.terminal import table
from cache_sidecar.tiers.path.sliding import SlidingExpiry

# Memory is worth doubling for this share of the reads in memory, of all datasets; and worth keeping for that one.
WORTH_MORE, WORTH_KEEPING = 0.02, 0.005
# Longer times have to save this share of the statements, or of the reads of Redis, and so many a second.
WORTH_A_TTL = 0.1
LEAST_SAVED = 0.1
# And must not serve this share of the reads out of date if invalidations were missed, more than today's times would.
MORE_OUTDATED = 0.01
# If less than this share of the bytes are used, it is the number of entries that is bounded.
BOUND_BY_BYTES = 0.9
MIB = 1 << 20


class Change(NamedTuple):
    """A change for a person to make."""

    setting: str
    "A key of the policy, `DATASET.KEY`, or the setting `l1_max_bytes` or `l1_max_entries`."
    value: float
    because: str


class Report(NamedTuple):
    """The result."""

    period: Period
    datasets: Sequence[Dataset]
    changes: Sequence[Change]

    def lines(self) -> Iterator[str]:
        """Yields what to print."""
        sidecars = "a sidecar" if self.period.sidecars == 1 else f"{self.period.sidecars} sidecars"
        yield f"{table.seconds(self.period.seconds)} of {sidecars}"
        for one in self.datasets:
            yield ""
            yield from _dataset_lines(one)
        yield ""
        if not self.datasets:
            yield "Nothing was read."
        elif not self.changes:
            yield "Nothing to change."
        else:
            yield from _change_lines(self.changes)

    def as_json(self) -> dict[str, Any]:
        """Returns the same for programs: rates a second, shares from 0 to 1, times in seconds."""
        return {
            "seconds": self.period.seconds,
            "sidecars": self.period.sidecars,
            "datasets": {one.name: _as_json(one) for one in self.datasets},
            "changes": [change._asdict() for change in self.changes],
        }


def report(period: Period) -> Report:
    """Returns the figures of all datasets that were read, and what they recommend."""
    slides = {spec.name for spec in ALL if getattr(spec.expiry, "func", spec.expiry) is SlidingExpiry}
    datasets = [model.assess(period, name, slides=name in slides) for name in period.datasets()]
    return Report(period, datasets, [*_memory(period, datasets), *(one for found in datasets for one in _policy(found))])


def _memory(period: Period, datasets: Sequence[Dataset]) -> Iterator[Change]:
    """Yields the size of memory that is worth it: doubled or halved as long as that is, for all datasets together."""
    limit = period.gauge(d.L1_LIMIT)
    names = [one.name for one in datasets if one.sizes and one.is_enough]
    if not limit or not names:
        return
    hits = {size: model.hits_of_all(period, names, size) for size in model.SHOWN_SIZES}
    size = 1.0
    while 2 * size in hits and hits[2 * size] - hits[size] >= WORTH_MORE:
        size *= 2
    while size <= 1 and size / 2 in hits and hits[1.0] - hits[size / 2] < WORTH_KEEPING and limit * size / 2 >= MIB:
        size /= 2
    if size == 1:
        return
    rest = f"{abs(size - 1) * limit / MIB:,.0f} MiB {'more' if size > 1 else 'less'} for each sidecar"
    setting, value = "l1_max_bytes", limit
    entries = period.gauge(d.L1_ENTRIES) or 0.0
    if size > 1 and (period.gauge(d.L1_BYTES) or 0.0) < BOUND_BY_BYTES * limit:
        # Values are evicted though there are bytes left.
        setting, value, rest = "l1_max_entries", entries, f"{(size - 1) * entries:,.0f} more entries in each sidecar"
    because = f"{hits[size]:.1%} of the reads would hit memory instead of {hits[1.0]:.1%}, with {rest}"
    yield Change(setting, round(value * size), because)


def _policy(one: Dataset) -> Iterator[Change]:
    """Yields changes of a dataset's policy."""
    # A record that slides expires when its user is gone, and a session has to: that is no question of load.
    if one.is_enough and not one.slides:
        yield from _longer(one, one.l2_ttls, ["l2_ttl"], "statements")
        yield from _longer(one, one.l1_ttls, ["l1_soft_ttl", "l1_hard_ttl"], "redis")
    full = one.rollouts.get(100.0)
    if full is not None and one.is_enough and not one.mismatches and full.statements < one.today.statements:
        because = f"{full.statements:,.1f} statements a second instead of {one.today.statements:,.1f}"
        if one.policy["shadow"]:
            yield Change(f"{one.name}.shadow", 0, f"no reads differed in shadow; {because}")
        if one.policy["rollout"] < 100:
            yield Change(f"{one.name}.rollout", 100, because)


def _longer(one: Dataset, alternatives: Mapping[float, Outcome], keys: Sequence[str], what: str) -> Iterator[Change]:
    """Yields the longest times of which each doubling saves enough."""
    found, ttl, present = one.today, 1.0, one.today
    for longer in sorted(ttl for ttl in alternatives if ttl > 1):
        then = alternatives[longer]
        before, after = getattr(found, what), getattr(then, what)
        outdated = (then.outdated or 0.0) - (present.outdated or 0.0)
        if before - after < max(LEAST_SAVED, WORTH_A_TTL * before) or outdated > MORE_OUTDATED:
            break
        found, ttl = then, longer
    if ttl == 1:
        return
    where = "statements in PostgreSQL" if what == "statements" else "reads of Redis"
    because = f"{getattr(found, what):,.1f} {where} a second instead of {getattr(present, what):,.1f}"
    if found.oldest is not None and present.oldest is not None:
        because += (
            f"; a change that nobody publishes may stay unseen for {_seconds(found.oldest)}, not {_seconds(present.oldest)}"
        )
    for key in keys:
        yield Change(f"{one.name}.{key}", one.policy[key] * ttl, because)


def _dataset_lines(one: Dataset) -> Iterator[str]:
    compared, older = one.inspected
    facts = [f"{one.reads:,.1f} reads a second", f"sample {one.keys:,.0f} ids, {one.sample:.2%} of all"]
    if compared:
        facts.append(f"{older:,.0f} of {compared:,.0f} inspected hits were older than PostgreSQL")
    if one.mismatches:
        facts.append(f"{one.mismatches:,.0f} reads differed in shadow")
    if one.sizes:
        facts.append(f"memory hits {_share(one.today.l1_hits)}, simulated {_share(one.simulated_l1_hits)}")
    yield f"{one.name}: {'; '.join(facts)}"
    if not one.is_enough:
        yield f"  fewer than {model.MIN_READS:,} reads through the caches: too few to say what would change"
    rows = [["", "L1", "L2", "Redis/s", "SQL/s", "MB", "oldest", "outdated"]]
    rows += [_row(outcome) for outcome in (one.today, *(one.alternatives() if one.is_enough else ()))]
    yield from (f"  {line}" for line in table.lines(rows))


def _row(one: Outcome) -> list[str]:
    return [
        one.what,
        _share(one.l1_hits),
        _share(one.l2_hits),
        f"{one.redis:,.1f}",
        f"{one.statements:,.1f}",
        "-" if one.bytes is None else f"{one.bytes / 1e6:,.1f}",
        "-" if one.oldest is None else _seconds(one.oldest),
        "-" if one.outdated is None else _share(one.outdated),
    ]


def _share(share: float) -> str:
    return f"{100 * share:.1f} %"


def _seconds(seconds: float) -> str:
    return table.seconds(seconds)


def _change_lines(changes: Sequence[Change]) -> Iterator[str]:
    yield "Recommended:"
    for change in changes:
        yield f"  {change.setting} = {_value(change)}: {change.because}"
    settings = [change for change in changes if "." not in change.setting]
    policy = [change for change in changes if "." in change.setting]
    if policy:
        yield ""
        yield "To apply, in the policy file or its ConfigMap; it takes effect within a second:"
        tables = dict.fromkeys(change.setting.partition(".")[0] for change in policy)
        for name in tables:
            yield ""
            yield f"  [{name}]"
            for change in policy:
                dataset, _, key = change.setting.partition(".")
                if dataset == name:
                    yield f"  {key} = {_value(change)}"
        yield ""
        yield "To try it in one sidecar until that stops:"
        yield ""
        yield "  cache-sidecar policy " + " ".join(f"{change.setting}={_value(change)}" for change in policy)
    if settings:
        yield ""
        yield "In the settings, with as much more or less memory for the container; it takes effect with the next start:"
        yield ""
        for change in settings:
            yield f"  {change.setting} = {_value(change)}"


def _value(change: Change) -> str:
    return str(change.value > 0).lower() if change.setting.endswith(".shadow") else f"{change.value:.10g}"


def _as_json(one: Dataset) -> dict[str, Any]:
    alternatives = {"sizes": one.sizes, "l1_ttls": one.l1_ttls, "l2_ttls": one.l2_ttls, "rollouts": one.rollouts}
    compared, older = one.inspected
    return {
        "reads": one.reads,
        "enough_reads": one.is_enough,
        "policy": dict(one.policy),
        "sample": {"keys": one.keys, "share": one.sample, "simulated_l1_hits": one.simulated_l1_hits},
        "inspected": {"hits": compared, "older": older},
        "shadow_mismatches": one.mismatches,
        "today": _outcome_as_json(one.today),
        **{
            group: {f"{by:g}": _outcome_as_json(found) for by, found in outcomes.items()}
            for group, outcomes in alternatives.items()
        },
    }


def _outcome_as_json(one: Outcome) -> dict[str, Any]:
    found = one._asdict()
    del found["what"]
    return found
