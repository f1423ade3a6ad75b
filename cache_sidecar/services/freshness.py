"""What every read shares: the caller's options, and the metadata of the reply."""

from collections.abc import Iterable

from cache_sidecar.tiers.ports import ANY, Answer, Freshness
from cache_sidecar.v1.cache_pb2 import CacheMetadata, ReadOptions, Source


def wanted(options: ReadOptions) -> Freshness:
    """Returns what a caller asks of a read."""
    if not options.ByteSize():
        return ANY
    age = options.max_age
    return Freshness(max_age=age.seconds + age.nanos / 1e9 if options.HasField("max_age") else None, bypass=options.bypass)


def describe(answer: Answer, cache: CacheMetadata) -> None:
    """Writes where an answer came from, and how old it is, into the metadata of a reply."""
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


def metadata_of_all(answers: Iterable[Answer]) -> CacheMetadata:
    """Returns the metadata of a reply made of several answers: the least fresh of each."""
    _, sources, versions, ages, stale, _ = zip(*answers, strict=True)
    return metadata(Answer(None, source=max(sources), version=max(versions), age=max(ages), stale=any(stale)))
