"""The bytes of a file or of standard input, unpacked where they are gzip."""

import asyncio
import contextlib
import os
import stat
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from cache_sidecar.core.errors import InputError

# Bytes taken at a time, packed and unpacked.
CHUNK = 256 * 1024
STDIN = "-"
_GZIP = b"\x1f\x8b"
# The longest of the beginnings that tell what a file is.
_LONGEST_MAGIC = 4
_NOT_TEXT = {
    b"PK\x03\x04": "a zip archive or an Excel workbook: save it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
    b"(\xb5/\xfd": "packed with zstd: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
}


class DamagedInput(Exception):
    """The packed data ends too early or makes no sense from here on; what came before it is good."""


class Source:
    """An open file, or standard input for `-`. Counts the bytes taken from it, as they are on the disk."""

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
            raise InputError(f"cannot read {self.name}: it is a folder, name a file in it")
        self.size = os.fstat(self._fd).st_size if stat.S_ISREG(self._mode) else None
        "Bytes, or None where there is no knowing."
        self.taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; standard input stays open."""
        if self._owned:
            os.close(self._fd)

    def is_file(self, path: Path) -> bool:
        """Whether it reads the file at `path`."""
        return path.exists() and os.path.samestat(path.stat(), os.fstat(self._fd))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields unpacked bytes, at most CHUNK at a time.

        Raises InputError for a file that is no text at all, and DamagedInput where gzip data is damaged or cut off.
        """
        chunk = await self._head()
        for magic, what in _NOT_TEXT.items():
            if chunk.startswith(magic):
                raise InputError(f"{self.name} is {what}")
        gunzip = Gunzip() if chunk.startswith(_GZIP) else None
        while chunk:
            for piece in gunzip.feed(chunk) if gunzip else [chunk]:
                yield piece
            chunk = await self._take()
        if gunzip:
            gunzip.finish()

    async def _head(self) -> bytes:
        head = b""
        while len(head) < _LONGEST_MAGIC and (chunk := await self._take()):
            head += chunk
        return head

    async def _take(self) -> bytes:
        if stat.S_ISFIFO(self._mode) or stat.S_ISSOCK(self._mode) or os.isatty(self._fd):
            # A read would hold up the loop, and with it Ctrl-C, until the other side writes something.
            await _readable(self._fd)
        try:
            chunk = os.read(self._fd, CHUNK)
        except OSError as error:
            raise InputError(f"cannot read {self.name}: {_reason(error)}") from None
        self.taken += len(chunk)
        return chunk


class Gunzip:
    """Unpacks gzip data of one or more members, in pieces of bounded size however well it was packed."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self._between = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields what comes out of more data. Raises DamagedInput."""
        while data:
            if self._between:
                # Tapes and some tools pad with zeros.
                data = data.lstrip(b"\0")
                if not data:
                    return
                self._member = zlib.decompressobj(wbits=31)
            try:
                piece = self._member.decompress(data, CHUNK)
            except zlib.error:
                raise DamagedInput("the gzip data is damaged from here on") from None
            self._between = self._member.eof
            data = self._member.unused_data if self._between else self._member.unconsumed_tail
            if piece:
                yield piece

    def finish(self) -> None:
        """Checks that the data ended where a member did. Raises DamagedInput."""
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
