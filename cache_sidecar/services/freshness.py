"""What every read shares: the caller's options, and the metadata of the reply."""

from collections.abc import Iterable

from cache_sidecar.tiers.ports import ANY, Answer, Freshness, Source
from cache_sidecar.v1.cache_pb2 import SOURCE_L1, SOURCE_L2, SOURCE_STORE, CacheMetadata, ReadOptions

_SOURCES = {Source.L1: SOURCE_L1, Source.L2: SOURCE_L2, Source.STORE: SOURCE_STORE}
_FARTHEST = (Source.L1, Source.L2, Source.STORE)


def wanted(options: ReadOptions) -> Freshness:
    """Returns what a caller asks of a read."""
    if not options.ByteSize():
        return ANY
    age = options.max_age
    return Freshness(max_age=age.seconds + age.nanos / 1e9 if options.HasField("max_age") else None, bypass=options.bypass)


def metadata(answer: Answer) -> CacheMetadata:
    """Returns where an answer came from, and how old it is."""
    cache = CacheMetadata(source=_SOURCES[answer.source], version=answer.version, stale=answer.stale)
    cache.age.seconds = seconds = int(answer.age)
    cache.age.nanos = int((answer.age - seconds) * 1e9)
    return cache


def metadata_of_all(answers: Iterable[Answer]) -> CacheMetadata:
    """Returns the metadata of a reply made of several answers: the least fresh of each."""
    answers = list(answers)
    return metadata(
        Answer(
            None,
            source=max((answer.source for answer in answers), key=_FARTHEST.index),
            version=max(answer.version for answer in answers),
            age=max(answer.age for answer in answers),
            stale=any(answer.stale for answer in answers),
        )
    )
