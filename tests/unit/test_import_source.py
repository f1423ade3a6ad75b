"""Bytes come from files, pipes and standard input, plain or gzip, whole or damaged."""

import asyncio
import gzip
import os
import pty
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.importer.source import CHUNK, DamagedInput, Gunzip, Source

TEXT = b"".join(b"line %d\n" % number for number in range(100_000))


async def read(path: str, got: list[bytes] | None = None) -> bytes:
    got = [] if got is None else got
    with Source(path) as source:
        async for chunk in source.chunks():
            got.append(chunk)
    return b"".join(got)


def write(folder: Path, data: bytes) -> str:
    path = folder / "data"
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        gzip.compress(TEXT),
        gzip.compress(TEXT[:777]) + gzip.compress(TEXT[777:]),
        gzip.compress(TEXT) + b"\0" * 1000,
    ],
    ids=["plain", "gzip", "two members", "padded"],
)
async def test_a_file_is_read_whole(tmp_path: Path, data: bytes) -> None:
    assert await read(write(tmp_path, data)) == TEXT


@pytest.mark.parametrize("data", [b"", b"a", b"\x1f", b"abc"])
async def test_tiny_files(tmp_path: Path, data: bytes) -> None:
    assert await read(write(tmp_path, data)) == data


async def test_bytes_taken_are_those_on_the_disk(tmp_path: Path) -> None:
    packed = gzip.compress(TEXT)
    with Source(write(tmp_path, packed)) as source:
        assert [chunk async for chunk in source.chunks()]
        assert (source.size, source.bytes_read) == (len(packed), len(packed))


async def test_a_packed_bomb_comes_in_small_pieces(tmp_path: Path) -> None:
    with Source(write(tmp_path, gzip.compress(b"\0" * 50_000_000))) as source:
        sizes = [len(chunk) async for chunk in source.chunks()]
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= CHUNK


def test_what_is_one_feed_comes_in_several_pieces() -> None:
    gunzip = Gunzip()
    packed = gzip.compress(b"x" * (3 * CHUNK))
    assert b"".join(gunzip.feed(packed)) == b"x" * (3 * CHUNK)
    gunzip.finish()


@pytest.mark.parametrize("cut", [3, 15, 1000, 50_000])
async def test_gzip_that_is_cut_off_gives_what_was_there(tmp_path: Path, cut: int) -> None:
    data = os.urandom(100_000)
    got: list[bytes] = []
    with pytest.raises(DamagedInput, match="cut off"):
        await read(write(tmp_path, gzip.compress(data)[:cut]), got)
    assert data.startswith(b"".join(got))
    assert len(b"".join(got)) >= cut - 1000


@pytest.mark.parametrize("cut", [-1, -8])
async def test_gzip_without_its_last_bytes_is_cut_off(tmp_path: Path, cut: int) -> None:
    with pytest.raises(DamagedInput, match="cut off"):
        await read(write(tmp_path, gzip.compress(TEXT)[:cut]))


@pytest.mark.parametrize("before", [b"", gzip.compress(TEXT)])
@pytest.mark.parametrize("at", [-8, -len(gzip.compress(TEXT)) // 2])
async def test_of_gzip_with_a_wrong_checksum_nothing_is_read(tmp_path: Path, before: bytes, at: int) -> None:
    packed, got = bytearray(before + gzip.compress(TEXT)), list[bytes]()
    packed[at] ^= 1
    with pytest.raises(InputError, match="is corrupt: its gzip data fails after"):
        await read(write(tmp_path, bytes(packed)), got)
    assert got == []


async def test_rubbish_behind_gzip_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedInput, match="damaged"):
        await read(write(tmp_path, gzip.compress(TEXT) + b"rubbish"))


def test_gzip_may_arrive_byte_by_byte() -> None:
    gunzip = Gunzip()
    packed = gzip.compress(b"some text") + gzip.compress(b" and more")
    pieces = [piece for byte in packed for piece in gunzip.feed(bytes([byte]))]
    gunzip.finish()
    assert b"".join(pieces) == b"some text and more"


def test_raw_deflate_is_no_gzip() -> None:
    with pytest.raises(DamagedInput):
        list(Gunzip().feed(zlib.compress(b"text")))


@pytest.mark.parametrize(
    ("magic", "what"),
    [
        (b"PK\x03\x04....", "a zip archive or an Excel workbook: save it as CSV"),
        (b"\xd0\xcf\x11\xe0....", "an Excel workbook"),
        (b"(\xb5/\xfd....", "packed with zstd"),
        (b"BZh9....", "packed with bzip2"),
    ],
)
async def test_what_is_no_text_is_said_in_one_line(tmp_path: Path, magic: bytes, what: str) -> None:
    with pytest.raises(InputError, match=what):
        await read(write(tmp_path, magic))


def test_a_missing_file_and_a_folder_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*/none: No such file"):
        Source(str(tmp_path / "none"))
    with pytest.raises(InputError, match="it is a folder"):
        Source(str(tmp_path))


def test_a_closed_standard_input_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Path(os.devnull).open()  # noqa: SIM115
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    with pytest.raises(InputError, match="cannot read standard input"):
        Source("-")


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """The writing end of what is standard input for a while."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield writing


async def test_standard_input_is_read_as_it_comes(pipe: int) -> None:
    source = Source("-")
    assert (source.name, source.size) == ("standard input", None)
    chunks = source.chunks()
    os.write(pipe, b"one\n")
    waiting = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    assert await waiting == b"one\n"
    os.write(pipe, b"two\n")
    assert await anext(chunks) == b"two\n"
    os.close(pipe)
    assert [chunk async for chunk in chunks] == []
    source.close()
    assert os.fstat(sys.stdin.fileno())


async def test_waiting_for_a_quiet_pipe_can_be_interrupted(pipe: int) -> None:
    waiting = asyncio.ensure_future(anext(Source("-").chunks()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.close(pipe)


async def test_a_terminal_is_waited_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        os.write(ours, b"text\n")
        assert await anext(Source("-").chunks()) == b"text\n"
    os.close(ours)


async def test_dev_null_is_empty() -> None:
    assert await read(os.devnull) == b""


def test_a_source_knows_its_own_file(tmp_path: Path) -> None:
    path = Path(write(tmp_path, b"text"))
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "other").write_bytes(b"text")
    with Source(str(path)) as source:
        assert source.is_file(tmp_path / "link")
        assert not source.is_file(tmp_path / "other")
        assert not source.is_file(tmp_path / "none")


async def test_a_disk_that_fails_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, size: int) -> bytes:
        raise OSError(5, "Input/output error")

    with Source(write(tmp_path, b"text")) as source:
        monkeypatch.setattr(os, "read", fail)
        with pytest.raises(InputError, match=r"cannot read .*data: Input/output error"):
            await anext(source.chunks())
