"""Percentiles, and ratios of two arms with their confidence."""

from collections.abc import Sequence
from math import ceil, exp, log, sqrt
from typing import NamedTuple

# Student's t for a two-sided confidence of 95 %, by degrees of freedom; beyond, that of the normal distribution.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_NORMAL = 1.96


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns a percentile of ordered values by the nearest rank; 0 without any."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, ceil(share * len(ordered)) - 1))]


class Ratio(NamedTuple):
    """How many times as much one arm takes as another, as the geometric mean over rounds."""

    value: float
    low: float | None
    "Where it lies with a confidence of 95 %; None of a single round."
    high: float | None


def ratio(ours: Sequence[float], others: Sequence[float]) -> Ratio | None:
    """Returns the ratio of two arms, measured in the same rounds; None if one of them has a round with nothing."""
    if not ours or any(value <= 0 for value in (*ours, *others)):
        return None
    logs = [log(one / other) for one, other in zip(ours, others, strict=True)]
    mean = sum(logs) / len(logs)
    if len(logs) == 1:
        return Ratio(exp(mean), None, None)
    deviation = sqrt(sum((one - mean) ** 2 for one in logs) / (len(logs) - 1))
    freedom = len(logs) - 1
    half = (_T[freedom - 1] if freedom <= len(_T) else _NORMAL) * deviation / sqrt(len(logs))
    return Ratio(exp(mean), exp(mean - half), exp(mean + half))
