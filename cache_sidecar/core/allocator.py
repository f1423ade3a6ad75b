"""The C library's memory allocator, set up so that what clients took for a moment is given back.

glibc keeps up to eight arenas per core, and what a thread has freed in one is of no use to the others. After a flood of calls,
which grpc.aio takes in several threads, a process kept 60 MiB more than with two arenas.
"""

import ctypes
import sys

# mallopt(3).
_M_ARENA_MAX = -8
ARENAS = 2


def limit_arenas() -> None:
    """Limits the arenas of this process, before it starts threads; without effect where the library is not glibc."""
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Gives the memory that this process has freed back to the kernel; without effect where the library is not glibc."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        return libc
    return None
