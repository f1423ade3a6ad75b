"""Reads what can be read of several ids, when no tier answers for some of them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from cache_sidecar.core.errors import Overloaded, TierFailed
from cache_sidecar.tiers.ports import Freshness

T = TypeVar("T")


async def read_known(
    read: Callable[[Sequence[str], Freshness], Awaitable[dict[str, T]]], ids: Sequence[str], wanted: Freshness
) -> tuple[dict[str, T], Collection[str]]:
    """Reads what can be read; returns that, and the ids of which no tier answered. Raises TierFailed if that is all of them."""
    try:
        return await read(ids, wanted), ()
    except (TierFailed, Overloaded):
        alone = await asyncio.gather(*(read([id], wanted) for id in ids), return_exceptions=True)
        found: dict[str, T] = {}
        unread = set()
        for id, one in zip(ids, alone, strict=True):
            if isinstance(one, TierFailed | Overloaded):
                unread.add(id)
            elif isinstance(one, BaseException):
                raise one from None
            else:
                found |= one
        if len(unread) == len(ids):
            raise
        return found, unread
