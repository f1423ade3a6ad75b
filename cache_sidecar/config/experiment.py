"""Experiments: which variant a user takes part in, and which generators make the lists of each variant. Pure."""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

# What can make a list: see recommendations/generator.py.
GENERATORS = ("shop", "popular", "provided", "remote")
_VARIANT = re.compile(r"([A-Za-z0-9._-]{1,64})=([0-9]+)(?::([a-z,]+))?")
_SHARES = 2**64


class Variant(NamedTuple):
    """One variant of an experiment."""

    name: str
    weight: int
    "Its part of all users, relative to the others' weights."
    generators: Sequence[str]
    "In the order in which they are asked; empty for those of the setting."


def parse(text: str) -> list[Variant]:
    """Returns the variants that a text lists, such as `control=90; model=10:remote,shop`. Raises ValueError."""
    variants = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        found = _VARIANT.fullmatch(part)
        if found is None:
            raise ValueError(f"{part[:80]!r} is no variant: NAME=WEIGHT or NAME=WEIGHT:GENERATORS, separated by semicolons")
        variants.append(Variant(found[1], int(found[2]), order_of(found[3] or "")))
    if variants and sum(variant.weight for variant in variants) == 0:
        raise ValueError("one of the variants needs a weight above 0")
    if len({variant.name for variant in variants}) < len(variants):
        raise ValueError("a variant is named twice")
    return variants


def order_of(text: str) -> list[str]:
    """Returns the generators in a list with commas. Raises ValueError for one that does not exist, or is named twice."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in GENERATORS:
            raise ValueError(f"{name[:40]!r} is no generator; there are: {', '.join(GENERATORS)}")
    if len(set(names)) < len(names):
        raise ValueError("a generator is named twice")
    return names


def choose(variants: Sequence[Variant], *, salt: str, user_id: str) -> Variant:
    """Returns the variant of a user: always the same one for a salt, and independent of that for another salt."""
    digest = blake2b(f"{salt}\0{user_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") * sum(variant.weight for variant in variants) // _SHARES
    for variant in variants:
        if place < variant.weight:
            return variant
        place -= variant.weight
    raise AssertionError("the place is below the sum of the weights")
