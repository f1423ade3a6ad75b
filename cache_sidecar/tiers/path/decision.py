"""Whether an L1 entry or an L2 record answers a read, by its age. Pure: the time is an argument."""

from collections.abc import Callable
from enum import Enum, auto
from math import log
from zlib import crc32

from cache_sidecar.config.policy import DatasetPolicy
from cache_sidecar.core.clock import CLOCK_SKEW
from cache_sidecar.tiers.ports import Entry, Freshness, Record


class Verdict(Enum):
    """What a read does with an L1 entry."""

    SERVE = auto()
    SERVE_AND_REFRESH = auto()
    SERVE_STALE = auto()
    MISS = auto()


def is_fresh(entry: Entry, *, now: float, policy: DatasetPolicy) -> bool:
    """Whether an entry is a value that a read without wishes is served, not refreshed: the usual verdict of `verdict_on`."""
    return entry.partition.trusted and now - entry.expires_from < policy.l1_soft_ttl and entry.record.value is not None


def verdict_on(entry: Entry, *, now: float, policy: DatasetPolicy, wanted: Freshness) -> Verdict:
    """Returns what a read does with an entry."""
    record = entry.record
    if wanted.max_age is not None and now - record.read_at > wanted.max_age:
        return Verdict.MISS
    held_for = now - entry.expires_from
    if is_guess(record):
        return Verdict.SERVE if held_for < policy.negative_ttl and entry.partition.trusted else Verdict.MISS
    if held_for >= policy.l1_hard_ttl:
        return Verdict.MISS
    if not entry.partition.trusted:
        is_known = entry.partition.heard or now - entry.partition.suspect_since <= policy.stale_limit
        return Verdict.SERVE_STALE if is_known else Verdict.MISS
    return Verdict.SERVE_AND_REFRESH if held_for >= policy.l1_soft_ttl else Verdict.SERVE


def serves_as_last_resort(entry: Entry, *, now: float, policy: DatasetPolicy, wanted: Freshness) -> bool:
    """Whether an entry, even an expired one, answers a read that no other tier can answer."""
    record = entry.record
    if wanted.bypass or record.value is None or (wanted.max_age is not None and now - record.read_at > wanted.max_age):
        return False
    if not entry.partition.heard and now - entry.partition.suspect_since > policy.stale_limit:
        return False
    return now - entry.expires_from < policy.l1_hard_ttl + policy.stale_limit


def l2_serves(record: Record, *, now: float, policy: DatasetPolicy, wanted: Freshness) -> bool:
    """Whether a record from Redis answers a read."""
    age = now - record.read_at
    if age < -CLOCK_SKEW or (wanted.max_age is not None and age > wanted.max_age):
        return False
    if record.expiry is not None:
        return now < record.expiry.until(policy.l2_ttl)
    return age < (policy.negative_ttl if is_guess(record) else policy.l2_ttl * (1 + policy.jitter))


def should_refresh(
    id: str, record: Record, *, now: float, policy: DatasetPolicy, load_seconds: float, rng: Callable[[], float]
) -> bool:
    """Whether a reader should refresh a record in Redis before it expires there.

    The soft expiry is before the earliest moment at which jitter may let it expire, and is spread by id, so that what was
    loaded together is not refreshed together. The nearer it is, in units of what a load takes, the likelier a reader is to
    refresh: one of many readers does, in time (Vattani, Chierichetti, Lowenstein, Optimal Probabilistic Cache Stampede
    Prevention, 2015: XFetch with beta 1). `rng` draws a number from 0 to below 1.
    """
    if record.expiry is not None or is_guess(record):
        return False
    soft_ttl = policy.l2_ttl * (1 - policy.jitter) * (1 - policy.jitter * crc32(id.encode()) / 2**32)
    left = soft_ttl - (now - record.read_at)
    # No draw reaches further than 40 loads: exp(-40) is negligible.
    return left <= 0 or (left < 40 * load_seconds and left <= -load_seconds * log(1 - rng()))


def is_guess(record: Record) -> bool:
    """Whether it is a plain `not found`, without a deletion's version: only a later insertion would contradict it."""
    return record.value is None and record.version == 0


def with_jitter(now: float, *, draw: float, ttl: float, jitter: float) -> float:
    """Returns `now` moved by up to `jitter` of `ttl` either way; `draw` is a random number from 0 to 1."""
    return now + (2 * draw - 1) * jitter * ttl
