"""A sidecar whose GIL is held 50 ms in every 250, as by a library that computes: `python -m tests.bench.held serve --config FILE`."""

import ctypes
import sys
import threading
import time
from typing import NoReturn

from cache_sidecar.__main__ import main

_FREE_SECONDS, _HELD_MICROSECONDS = 0.2, 50_000


def _hold() -> NoReturn:
    sleep = ctypes.PyDLL(None).usleep  # unlike CDLL, it keeps the GIL during calls
    while True:
        time.sleep(_FREE_SECONDS)
        sleep(_HELD_MICROSECONDS)


if __name__ == "__main__":
    threading.Thread(target=_hold, daemon=True).start()
    sys.exit(main())
