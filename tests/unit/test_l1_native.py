"""The L1 in Rust: what the machine gives for it. What it serves without Python is tested in Rust."""

import subprocess
import sys

import pytest

from tests.support.engine_params import needs_native

pytestmark = needs_native

WEIGH = """
import sys
from pathlib import Path
from cache_sidecar.tiers.memory.native import NativeL1
from cache_sidecar.tiers.ports import PARTITIONS, Record

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

count, size = map(int, sys.argv[1:])
l1 = NativeL1(max_bytes=1 << 30, max_entries=1_000_000)
for partition in range(PARTITIONS):
    l1.set_trusted(partition, True, now=1.0)
value, before = bytes(size), resident()
for number in range(count):
    id = f"product-{number:08}"
    assert l1.put(id, Record(number + 1, 1.0, value), generation=l1.generation(id), expires_from=1.0)
print(resident() - before, l1.stats().bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is read from /proc")
@pytest.mark.parametrize(("count", "size"), [(65_000, 600), (66_000, 600), (20_000, 5_000)])
def test_the_bytes_it_counts_are_those_the_process_takes(count: int, size: int) -> None:
    # 65,536 entries fill the vector before it doubles: just below and above are the extremes.
    told = subprocess.run([sys.executable, "-c", WEIGH, str(count), str(size)], check=True, capture_output=True, text=True)
    real, counted = map(int, told.stdout.split())
    assert abs(real - counted) <= 0.15 * real, (real / count, counted / count)
