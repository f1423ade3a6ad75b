"""Reads a file or standard input; unpacks gzip."""

import asyncio
import codecs
import contextlib
import hashlib
import os
import re
import stat
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from cache_sidecar.core.errors import InputError

# Maximum number of bytes read, and yielded, at a time.
CHUNK = 256 * 1024
STDIN = "-"
_GZIP = b"\x1f\x8b"
# The length of the longest of these.
_LONGEST_MAGIC = 4
_NOT_TEXT = {
    b"PK\x03\x04": "a zip archive or an Excel workbook: save it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV",
    b"(\xb5/\xfd": "packed with zstd: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
}


class DamagedInput(Exception):
    """The gzip data, or the UTF-16 text, is truncated or corrupt from here on; what came before it is good."""


class Source:
    """An open file, or standard input for `-`."""

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == STDIN else path
        self._owned = path != STDIN
        try:
            self._fd = os.open(path, os.O_RDONLY) if self._owned else sys.stdin.fileno()
            self._mode = os.fstat(self._fd).st_mode
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {self.name}: {_reason(error)}") from None
        if stat.S_ISDIR(self._mode):
            self.close()
            raise InputError(f"cannot read {self.name}: it is a folder; name a file in it")
        self.size = os.fstat(self._fd).st_size if stat.S_ISREG(self._mode) else None
        "In bytes, before unpacking; None if unknown, as for a pipe."
        self.bytes_read = 0
        "So far, before unpacking."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; standard input stays open."""
        if self._owned:
            os.close(self._fd)

    @property
    def identity(self) -> str:
        """A name for the content of a file that has not been written since, at most 64 characters; a new one for a pipe."""
        found = os.fstat(self._fd)
        if self.size is None:
            return f"stdin-{uuid4().hex}"
        content = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
        name = re.sub("[^A-Za-z0-9._-]", "_", Path(self.name).name[:31])
        return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:32]}"

    def is_file(self, path: Path) -> bool:
        """Whether this is the file at `path`."""
        return path.exists() and os.path.samestat(path.stat(), os.fstat(self._fd))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields unpacked bytes, about CHUNK at a time; UTF-16 becomes UTF-8.

        Raises InputError for a file that is not text, or is corrupt gzip data, and DamagedInput where gzip data is truncated.
        What comes from a pipe is noticed to be corrupt at its checksum: then, too, DamagedInput.
        """
        chunk = await self._head()
        for magic, what in _NOT_TEXT.items():
            if chunk.startswith(magic):
                raise InputError(f"{self.name} is {what}")
        gunzip = Gunzip() if chunk.startswith(_GZIP) else None
        if gunzip and self.size is not None:
            await asyncio.to_thread(self._check_gzip)
        transcoder = Transcoder()
        while chunk:
            for piece in gunzip.feed(chunk) if gunzip else [chunk]:
                if made := transcoder.feed(piece):
                    yield made
            chunk = await self._read()
        if gunzip:
            gunzip.finish()
        if made := transcoder.finish():
            yield made

    def _check_gzip(self) -> None:
        """Raises InputError if data does not match its checksum: it unpacks into rows that nobody has written."""
        gunzip, unpacked = Gunzip(), 0
        at = os.lseek(self._fd, 0, os.SEEK_CUR) - self.bytes_read
        while chunk := os.pread(self._fd, CHUNK, at):
            at += len(chunk)
            try:
                for piece in gunzip.feed(chunk):
                    unpacked += len(piece)
            except DamagedInput:
                if gunzip.is_within_data:
                    raise InputError(
                        f"{self.name} is corrupt: its gzip data fails after {unpacked:,} bytes, so nothing was imported"
                    ) from None
                return  # what comes before is whole

    async def _head(self) -> bytes:
        head = b""
        while len(head) < _LONGEST_MAGIC and (chunk := await self._read()):
            head += chunk
        return head

    async def _read(self) -> bytes:
        if stat.S_ISFIFO(self._mode) or stat.S_ISSOCK(self._mode) or os.isatty(self._fd):
            # A read would block the event loop, and with it Ctrl-C, until the other side writes.
            await _readable(self._fd)
        try:
            chunk = os.read(self._fd, CHUNK)
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {_reason(error)}") from None
        self.bytes_read += len(chunk)
        return chunk


class Transcoder:
    """Turns UTF-16, with or without a byte order mark, into UTF-8; leaves anything else as it is."""

    def __init__(self) -> None:
        self._held: bytes | None = b""
        "The first bytes, until they tell."
        self._decoder: codecs.IncrementalDecoder | None = None

    def feed(self, data: bytes) -> bytes:
        """Returns the next part of the text, which may be empty."""
        if self._held is not None:
            data = self._held + data
            if len(data) < _LONGEST_MAGIC:
                self._held = data
                return b""
            self._begin(data)
        return self._encode(data, final=False)

    def finish(self) -> bytes:
        """Returns the rest. Raises DamagedInput if the last character is incomplete."""
        data, self._held = self._held or b"", None
        return self._encode(data, final=True)

    def _begin(self, data: bytes) -> None:
        self._held = None
        # Without a mark: in both forms every other byte of ASCII text is 0.
        is_nul = [byte == 0 for byte in data[:_LONGEST_MAGIC]]
        for name, mark, pattern in (
            ("utf-16-le", b"\xff\xfe", [False, True] * 2),
            ("utf-16-be", b"\xfe\xff", [True, False] * 2),
        ):
            if data.startswith(mark) or is_nul == pattern:
                self._decoder = codecs.getincrementaldecoder(name)("surrogatepass")

    def _encode(self, data: bytes, *, final: bool) -> bytes:
        if self._decoder is None:
            return data
        try:
            # Half of a surrogate pair stays invalid, so that its row is rejected.
            return self._decoder.decode(data, final).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise DamagedInput("the UTF-16 text is cut off here") from None


class Gunzip:
    """Unpacks gzip data of one or more members, in pieces of bounded size whatever the compression ratio."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._between = False
        self.is_within_data = False
        "Whether data was unpacked whose checksum has not been seen yet."

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields unpacked data. Raises DamagedInput."""
        while data:
            if self._between:
                # Some tools pad members with zeros.
                data = data.lstrip(b"\0")
                if not data:
                    return
                self._member = zlib.decompressobj(wbits=31)
            try:
                piece = self._member.decompress(data, CHUNK)
            except zlib.error:
                raise DamagedInput("the gzip data is damaged from here on") from None
            self._between = self._member.eof
            self.is_within_data = not self._between and (self.is_within_data or bool(piece))
            data = self._member.unused_data if self._between else self._member.unconsumed_tail
            if piece:
                yield piece

    def finish(self) -> None:
        """Checks that the data ended with a member. Raises DamagedInput."""
        if not self._between:
            raise DamagedInput("the gzip data is cut off here")


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def mark() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, mark)
    try:
        await ready
    finally:
        with contextlib.suppress(ValueError):
            loop.remove_reader(fd)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
