"""The record format: what is written is read, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_sidecar.tiers.ports import Record
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.codec import HEADER, Unreadable
from tests.support import inside

VERSIONS = st.integers(0, 2**63 - 1)
MOMENTS = st.integers(0, 4_102_444_800_000).map(lambda milliseconds: milliseconds / 1000)
VALUES = st.none() | st.binary(max_size=200)
WHOLE = codec.encode(Record(77, 1_700_000_000.5, b"value"))


@given(version=VERSIONS, read_at=MOMENTS, value=VALUES)
def test_a_record_survives(version: int, read_at: float, value: bytes | None) -> None:
    decoded = codec.decode(codec.encode(Record(version, read_at, value)))
    assert decoded is not None
    assert (decoded.version, decoded.value) == (version, value)
    assert decoded.read_at <= read_at
    assert read_at - decoded.read_at < 0.0011


@given(read_at=st.floats(0, 4e9))
def test_a_record_never_comes_back_younger(read_at: float) -> None:
    decoded = codec.decode(codec.encode(Record(1, read_at, b"")))
    assert decoded is not None
    assert decoded.read_at <= read_at


def test_an_empty_value_is_not_there_is_none() -> None:
    decoded = codec.decode(codec.encode(Record(1, 0.0, b"")))
    assert decoded is not None
    assert decoded.value == b""


@given(version=VERSIONS)
def test_an_invalidation_has_a_version_and_no_record(version: int) -> None:
    data = codec.invalidation(version)
    assert codec.decode(data) is None
    assert int(data[:16], 16) == version


@given(first=VERSIONS, second=VERSIONS)
def test_versions_compare_as_strings_as_they_do_as_numbers(first: int, second: int) -> None:
    encoded = [codec.encode(Record(version, 0.0, b""))[:16] for version in (first, second)]
    assert (encoded[0] < encoded[1]) == (first < second)


@given(position=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_anywhere_is_unreadable(position: int, byte: int) -> None:
    changed = WHOLE[:position] + bytes([byte]) + WHOLE[position + 1 :]
    if changed == WHOLE:
        assert codec.decode(changed) is not None
    elif chr(byte).isupper() and chr(byte).lower() == chr(WHOLE[position]) and position >= 31:
        pass  # the checksum itself in capitals says the same
    else:
        with pytest.raises(Unreadable):
            codec.decode(changed)


@given(end=st.integers(0, len(WHOLE) - 1))
def test_a_record_cut_short_is_unreadable(end: int) -> None:
    with pytest.raises(Unreadable):
        codec.decode(WHOLE[:end])


@given(more=st.binary(min_size=1, max_size=20))
def test_a_record_with_more_behind_it_is_unreadable(more: bytes) -> None:
    with pytest.raises(Unreadable):
        codec.decode(WHOLE + more)


@given(data=st.binary(max_size=120))
def test_foreign_bytes_are_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        codec.decode(data)


@given(head=st.text(alphabet="0123456789abcdef_+- x\n", min_size=16, max_size=16), rest=st.binary(max_size=60))
def test_what_python_takes_for_a_number_and_redis_does_not_is_unreadable(head: str, rest: bytes) -> None:
    with pytest.raises(Unreadable):
        codec.decode(head.encode() + b"01v" + rest)


@pytest.mark.parametrize("kind", [b"z", b"\x00", b"V"])
def test_a_kind_of_a_later_version_is_unreadable(kind: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreadable, match="kind of record"):
        codec.decode(inside.pack(codec, 1, kind, 0.0, b""))


def test_another_layout_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="layout"):
        codec.decode(WHOLE[:16] + b"99" + WHOLE[18:])


def test_the_value_starts_where_the_header_ends() -> None:
    assert WHOLE[HEADER:] == b"value"
