"""Records whose expiry every read puts off, as they are written in Redis; and leases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.tiers.ports import Expiry, Record
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.codec import Unreadable

moments = st.integers(0, 2**45).map(lambda milliseconds: milliseconds / 1000)
histories = st.just("") | st.from_regex(r"[1-9a-f]{8}", fullmatch=True)
expiries = st.builds(Expiry, moments, st.none() | moments, moments, histories)
# What is not an expiry is rounded down to a millisecond: content never seems younger than it is.
records = st.builds(
    Record, st.integers(1, 2**63 - 1), st.integers(0, 2**34).map(float), st.binary(max_size=100), expiries, st.just(False)
)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert codec.decode(codec.encode(record)) == record


@given(records, st.data())
def test_what_the_redis_function_changes_may_change_and_nothing_else(record: Record, data: st.DataObject) -> None:
    encoded = bytearray(codec.encode(record))
    for at in range(39, 83):
        encoded[at] = ord("0")
    changed = codec.decode(bytes(encoded))
    assert changed == record._replace(expiry=Expiry(0.0, 0.0, 0.0))
    if record.value:
        at = data.draw(st.integers(83, len(encoded) - 1))
        encoded[at] ^= 1
        with pytest.raises(Unreadable):
            codec.decode(bytes(encoded))


@given(records, st.integers(0, 82))
def test_a_record_cut_short_is_unreadable(record: Record, size: int) -> None:
    with pytest.raises(Unreadable):
        codec.decode(codec.encode(record)[:size])


def test_a_lease_is_no_record() -> None:
    lease = codec.lease(b"0123456789abcdef")
    assert lease[codec.KIND] == codec.LEASE
    assert codec.decode(lease) is None
    assert codec.encode(Record(1, 1.0, b"l" * 40))[codec.KIND] != codec.LEASE
    assert b""[codec.KIND] != codec.LEASE


def test_an_expiry_that_is_no_number_is_unreadable() -> None:
    encoded = codec.encode(Record(1, 1.0, b"v", Expiry(1.0)))
    with pytest.raises(Unreadable):
        codec.decode(encoded[:39] + b"g" + encoded[40:])
