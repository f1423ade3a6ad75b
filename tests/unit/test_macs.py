"""MACs: what counts as ours, and how keys are replaced."""

import re
from pathlib import Path
from zlib import crc32

import pytest
import structlog

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.tiers.ports import Expiry, Record
from cache_sidecar.tiers.redis import codec
from cache_sidecar.tiers.redis.macs import Macs
from tests.support.tokens import secret_file

ONE, TWO, THREE = ("one " * 12).replace(" ", "-")[:40], "2" * 32, "3" * 64
RECORDS = [
    Record(7, 1.5, b"value"),
    Record(7, 1.5, None),
    Record(0, 1.5, None),
    Record(7, 1.5, b"value", Expiry(2.5, 3.5, 4.5, "0123abcd")),
    Record(7, 1.5, b"value", Expiry(2.5)),
]


def keys(folder: Path, *lines: str, required: bool = True) -> Macs:
    file = secret_file(folder / "keys", "\n".join(lines) + "\n")
    return Macs(str(file), is_required=required)


def look(macs: Macs) -> None:
    """Has a changed file read: at the second check that finds it unchanged."""
    macs.look()
    macs.look()


def decode(macs: Macs | None, data: bytes, key: str = "key") -> Record | None:
    return codec.decode(data, None if macs is None else lambda mac, covered: macs.is_valid(mac, key, covered))


def encode(macs: Macs, record: Record, key: str = "key") -> bytes:
    return codec.encode(record, lambda covered: macs.sign(key, covered))


@pytest.mark.parametrize("record", RECORDS)
def test_what_was_signed_is_read_with_the_key_and_without_any(tmp_path: Path, record: Record) -> None:
    macs = keys(tmp_path, ONE)
    data = encode(macs, record)
    assert decode(macs, data) == record
    assert decode(None, data) == record
    assert len(data) == len(codec.encode(record)) + codec.MAC


@pytest.mark.parametrize("record", RECORDS)
def test_what_is_not_signed_or_with_another_key_or_for_another_id_is_not(tmp_path: Path, record: Record) -> None:
    macs = keys(tmp_path, ONE)
    for data in (codec.encode(record), encode(keys(tmp_path, TWO), record), encode(macs, record, "another")):
        with pytest.raises(codec.Unsigned):
            decode(macs, data)


def test_without_being_required_no_mac_is_accepted_but_no_wrong_one(tmp_path: Path) -> None:
    macs, record = keys(tmp_path, ONE, required=False), RECORDS[0]
    assert decode(macs, codec.encode(record)) == record
    with pytest.raises(codec.Unsigned):
        decode(macs, encode(keys(tmp_path, TWO), record))


@pytest.mark.parametrize("record", RECORDS)
def test_nothing_but_the_uses_can_be_changed(tmp_path: Path, record: Record) -> None:
    macs = keys(tmp_path, ONE)
    data = encode(macs, record)
    header = codec.HEADER if record.expiry is None else codec.SLIDING_HEADER
    uses = set() if record.expiry is None else {*range(39, 51), *range(63, 83)}
    for position in set(range(len(data))) - set(range(31, 39)) - uses:
        changed = bytearray(data)
        changed[position] ^= 1
        # Whoever changes a record can correct its checksum.
        changed[31:39] = b"%08x" % crc32(changed[header + codec.MAC :], crc32(changed[:31]))
        with pytest.raises(codec.Unreadable):
            decode(macs, bytes(changed))


def test_marks_and_leases_need_none(tmp_path: Path) -> None:
    macs = keys(tmp_path, ONE)
    assert decode(macs, codec.invalidation(7)) is None
    assert decode(macs, codec.lease(b"token")) is None


def test_keys_are_replaced_in_steps(tmp_path: Path) -> None:
    macs, record = keys(tmp_path, ONE), RECORDS[0]
    first = encode(macs, record)
    keys(tmp_path, ONE, "# the next one", TWO)
    look(macs)
    assert encode(macs, record) == first, "the first one signs"
    keys(tmp_path, TWO, ONE)
    look(macs)
    second = encode(macs, record)
    assert second != first
    assert decode(macs, first) == decode(macs, second) == record
    keys(tmp_path, TWO)
    look(macs)
    assert decode(macs, second) == record
    with pytest.raises(codec.Unsigned):
        decode(macs, first)


NINE = "\n".join(f"{number:032}" for number in range(9))
BAD = ["", "# nothing", "short", "x" * 65, "a key of 32 characters, with spaces", "\u00e9" * 40, NINE]


@pytest.mark.parametrize("content", BAD)
def test_a_bad_file_is_refused_in_one_line_that_does_not_show_it(tmp_path: Path, content: str) -> None:
    with pytest.raises(SettingsError, match=r"must hold 1 to 8 keys, a line each of 32 to 64 visible characters") as refused:
        keys(tmp_path, content)
    assert "\n" not in str(refused.value)
    assert not content or content.splitlines()[0] not in str(refused.value)


def test_a_file_that_turns_bad_leaves_the_keys(tmp_path: Path) -> None:
    macs, record = keys(tmp_path, ONE), RECORDS[0]
    data = encode(macs, record)
    (tmp_path / "keys").write_text("short")
    with structlog.testing.capture_logs() as logs:
        look(macs)
    assert [re.sub(str(tmp_path), "", log["error"])[:20] for log in logs] == ["/keys must hold 1 to"]
    assert decode(macs, data) == record
