"""What every read shares: the caller's options and deadline, and the metadata of the reply."""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc

from cache_sidecar.tiers import ports
from cache_sidecar.tiers.ports import ANY, Answer, Freshness
from cache_sidecar.v1.cache_pb2 import CacheMetadata, ReadOptions, Source

Context = grpc.aio.ServicerContext[Any, Any]


def freshness_of(options: ReadOptions, context: Context) -> Freshness:
    """Returns the freshness that a caller requests, and the deadline of the call."""
    until = deadline(context)
    if not options.ByteSize():
        return ANY if until is None else Freshness(until=until)
    age = options.max_age
    max_age = age.seconds + age.nanos / 1e9 if options.HasField("max_age") else None
    return Freshness(max_age=max_age, bypass=options.bypass, until=until)


def deadline(context: Context) -> float | None:
    """Returns when a caller stops waiting, in the event loop's time; None without a deadline."""
    left = context.time_remaining()
    return None if left is None else asyncio.get_running_loop().time() + left


def describe(answer: Answer, cache: CacheMetadata) -> None:
    """Writes the source and age of an answer into the metadata of a reply."""
    _, source, version, age, stale, _ = answer
    cache.source = Source.ValueType(source)
    if version:
        cache.version = version
    if stale:
        cache.stale = True
    seconds = int(age)
    cache.age.seconds = seconds
    cache.age.nanos = int((age - seconds) * 1e9)


def metadata(answer: Answer) -> CacheMetadata:
    """Returns the metadata of an answer."""
    cache = CacheMetadata()
    describe(answer, cache)
    return cache


def metadata_of_all(answers: Iterable[Answer], *, version: int | None = None) -> CacheMetadata:
    """Returns the metadata of several answers: the furthest source, the greatest age, and, if not given, the newest version."""
    known = list(answers)
    if not known:  # none of the rows can be read
        return metadata(Answer(None, ports.Source.STORE, 0, 0.0, stale=False))
    _, sources, versions, ages, stale, _ = zip(*known, strict=True)
    newest = max(versions) if version is None else version
    return metadata(Answer(None, source=max(sources), version=newest, age=max(ages), stale=any(stale)))
