"""Answers L1 hits from the bytes of the request: nothing is parsed, validated or serialized.

Caches keep the serialized reply without its metadata. Every such reply has its `cache` as field 15, and every request for one
resource has the id as its field 1, so the bytes of both are enough. All other requests take the normal path.
"""

from collections.abc import Callable

from cache_sidecar.tiers.path.dataset import Dataset
from cache_sidecar.v1.cache_pb2 import SOURCE_L1
from cache_sidecar.v1.product_service_pb2 import GetProductResponse

# The tag of field 1 with a length, https://protobuf.dev/programming-guides/encoding; a length below this is one byte.
_FIELD_1 = 1 << 3 | 2
_MAX_LENGTH = 128


def by_id(dataset: Dataset) -> Callable[[bytes], bytes | None]:
    """Returns a function that answers a request with nothing but an id, if L1 has a fresh reply."""
    hit = dataset.hit
    # One message for all replies: there is no await between filling and serializing it, and a new one takes twice as long.
    reply = GetProductResponse()
    cache = reply.cache
    cache.source = SOURCE_L1
    age = cache.age

    def answer(request: bytes) -> bytes | None:
        # An id that breaks a rule is in no cache, so it is not validated. Inlined: this is the hot path.
        length = len(request) - 2
        if not 0 < length < _MAX_LENGTH or request[0] != _FIELD_1 or request[1] != length:
            return None
        try:
            found = hit(request[2:].decode())
        except UnicodeDecodeError:
            return None
        if found is None:
            return None
        record, seconds = found
        if record.value is None:
            return None
        cache.version = record.version
        age.seconds = whole = int(seconds)
        age.nanos = int((seconds - whole) * 1e9)
        return record.value + reply.SerializeToString()

    return answer
