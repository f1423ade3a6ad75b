"""What caches keep of the model, as bytes: a product's neighbours, a user's profile, the most popular products. Pure.

Numbers first, then the ids as one text: half a hundred rows are unpacked for a list, each in microseconds.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cache_sidecar.recommendations.rank import Popular, Profile
from cache_sidecar.recommendations.rows import ItemRow

# layout, model time, and how many weights and ids follow: of two kinds
_HEAD = struct.Struct("<BdHH")
_LAYOUT = 1
# No id that events and products may have contains it.
_BETWEEN = "\n"
# More than any list has: the products that a user bought, or the popular ones.
_MOST = 10_000


class _Packed(NamedTuple):
    """What is in the bytes, as far as their lengths fit."""

    model_time: float
    weights: Sequence[float]
    ids: Sequence[str]
    first: int
    "How many of the ids are of the first kind."


def pack_row(row: ItemRow) -> bytes:
    """Returns a product's neighbours as bytes."""
    weights = [*row.together.values(), *row.also.values()]
    return _pack(row.model_time, "f", weights, list(row.together), list(row.also))


def unpack_row(product_id: str, data: bytes, *, also: bool) -> ItemRow:
    """Returns a product's neighbours of one kind: `also` bought, or bought together."""
    time, weights, ids, first = _unpack(data, "f", both=True)
    if also:
        return ItemRow(product_id, {}, dict(zip(ids[first:], weights[first:], strict=True)), time)
    return ItemRow(product_id, dict(zip(ids[:first], weights[:first], strict=True)), {}, time)


def is_row(_id: str, data: bytes) -> bool:
    """Whether bytes can be a product's neighbours."""
    return _is_valid(data, "f", both=True)


def pack_profile(profile: Profile, model_time: float) -> bytes:
    """Returns a user's profile as bytes; `model_time` is the time as of which it was computed."""
    return _pack(model_time, "d", list(profile.shares.values()), list(profile.shares), sorted(profile.bought))


def unpack_profile(data: bytes) -> tuple[Profile, float]:
    """Returns a user's profile, and the time as of which it was computed."""
    time, weights, ids, first = _unpack(data, "d", both=False)
    return Profile(dict(zip(ids[:first], weights, strict=True)), frozenset(ids[first:])), time


def is_profile(_id: str, data: bytes) -> bool:
    """Whether bytes can be a user's profile."""
    return _is_valid(data, "d", both=False)


def pack_popular(shares: Mapping[str, float], model_time: float) -> bytes:
    """Returns the most popular products as bytes."""
    return pack_profile(Profile(shares, ()), model_time)


def unpack_popular(data: bytes) -> tuple[Popular, float]:
    """Returns the most popular products, and the time of the newest event that is counted."""
    profile, time = unpack_profile(data)
    return Popular(profile.shares), time


def _pack(time: float, kind: str, weights: Sequence[float], first: Sequence[str], second: Sequence[str]) -> bytes:
    ids = [*first, *second]
    if len(ids) > 2 * _MOST or any(_BETWEEN in id for id in ids):
        raise ValueError("too many ids, or one with a line break")
    head = _HEAD.pack(_LAYOUT, time, len(first), len(second))
    return head + struct.pack(f"<{len(weights)}{kind}", *weights) + _BETWEEN.join(ids).encode()


def _unpack(data: bytes, kind: str, *, both: bool) -> _Packed:
    """Returns what is in the bytes; `both` kinds of ids have weights, or the first alone. Raises ValueError, struct.error."""
    layout, time, first, second = _HEAD.unpack_from(data)
    if layout != _LAYOUT:
        raise ValueError("another layout")
    count = first + second if both else first
    weights = struct.unpack_from(f"<{count}{kind}", data, _HEAD.size)
    text = data[_HEAD.size + count * struct.calcsize(kind) :].decode()
    ids = text.split(_BETWEEN) if first + second else []
    if len(ids) != first + second:
        raise ValueError("another number of ids")
    return _Packed(time, weights, ids, first)


def _is_valid(data: bytes, kind: str, *, both: bool) -> bool:
    try:
        found = _unpack(data, kind, both=both)
    except (ValueError, struct.error):
        return False
    kinds = found.ids[: found.first], found.ids[found.first :]
    return (
        all(len(ids) == len(set(ids)) and all(ids) for ids in kinds)
        and _are_weights(found.weights)
        and math.isfinite(found.model_time)
        and found.model_time >= 0
    )


def _are_weights(weights: Iterable[float]) -> bool:
    return all(0 <= weight < math.inf for weight in weights)
