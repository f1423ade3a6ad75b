"""L1 shrinks while the container is short of memory, and grows again; on both kinds of L1 and versions of cgroups."""

import itertools
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cache_sidecar.core.container_memory import LEAST_L1_BYTES, MIB, l1_bytes
from cache_sidecar.tiers.memory import pressure
from cache_sidecar.tiers.memory.pressure import CALM_LOOKS, GROWTH, MemoryPressure, Share
from cache_sidecar.tiers.ports import L1, PARTITIONS, Record
from tests.support.cgroup import Cgroup
from tests.support.engine_params import L1S, MakeL1, needs_native

LIMIT = 1000 * MIB
FULL = 100 * MIB
VALUE = bytes(100_000)
CALM, BETWEEN, SHORT = (int(share * LIMIT) for share in (0.7, 0.82, 0.9))


@pytest.fixture(params=[False, True], ids=["v2", "v1"])
def cgroup(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    made = Cgroup(tmp_path, is_v1=request.param)
    made.replace_kernel_s(monkeypatch)
    made.write(limit=LIMIT, used=CALM)
    return made


@pytest.fixture(params=L1S)
def make(request: pytest.FixtureRequest) -> MakeL1:
    found: MakeL1 = request.param
    return found


def fill(l1: L1, bytes: int) -> None:
    """Fills an L1 with values, without evicting any."""
    for partition in range(PARTITIONS):
        l1.set_trusted(partition, True, now=0.0)
    number = 0
    while l1.stats().bytes + len(VALUE) + 1000 < bytes:
        id = f"id-{number}"
        assert l1.put(id, Record(1, 0.0, VALUE), generation=l1.generation(id), expires_from=0.0)
        number += 1


def shares(make: MakeL1, parts: Mapping[str, float], *, full: int = FULL) -> dict[str, Share]:
    return {name: Share(make(max_bytes=int(full * part), max_entries=10_000), part, 10_000) for name, part in parts.items()}


def watch(shares: dict[str, Share], *, follows_limit: bool = False, full: int = FULL) -> MemoryPressure:
    watched = MemoryPressure(max_bytes=full, follows_limit=follows_limit, give_back=lambda: None)
    for name, share in shares.items():
        watched.add(name, share)
    return watched


def held(shares: dict[str, Share]) -> int:
    return sum(one.l1.stats().bytes for one in shares.values())


async def test_the_excess_is_evicted_from_what_is_held(make: MakeL1, cgroup: Cgroup) -> None:
    memories = shares(make, {"product": 0.8, "cart": 0.2})
    fill(memories["product"].l1, 80 * MIB)
    fill(memories["cart"].l1, 4 * MIB)
    before, watched = held(memories), watch(memories)
    cgroup.write(used=int(0.86 * LIMIT))
    with capture_logs() as logs:
        await watched.look()
    excess = 0.06 * LIMIT
    assert before - excess - 2 * len(VALUE) <= held(memories) <= before - excess + MIB
    assert memories["cart"].l1.stats().entries > 0
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("memory for cached entries changed", "warning")
    assert (line["because"], line["l1_bytes_before"], line["l1_bytes"]) == (
        "memory is short",
        FULL,
        sum(watched.bounds.values()),
    )


async def test_what_is_put_later_obeys_the_smaller_bound(make: MakeL1, cgroup: Cgroup) -> None:
    memories = shares(make, {"product": 1.0})
    fill(memories["product"].l1, FULL)
    watched = watch(memories)
    cgroup.write(used=SHORT)
    await watched.look()
    bound = watched.bounds["product"]
    assert bound == LEAST_L1_BYTES  # 100 MiB too many are used, which is all that L1 had
    l1 = memories["product"].l1
    for number in range(500):
        l1.put(f"new-{number}", Record(1, 0.0, VALUE), generation=l1.generation(f"new-{number}"), expires_from=0.0)
        assert l1.stats().bytes <= bound


async def test_pressure_that_l1_does_not_cause_leaves_it_the_least_and_is_logged_once(make: MakeL1, cgroup: Cgroup) -> None:
    memories = shares(make, {"product": 0.5, "cart": 0.5})
    watched = watch(memories)
    cgroup.write(used=LIMIT)
    with capture_logs() as logs:
        for _ in range(5):
            await watched.look()
    assert sum(watched.bounds.values()) == LEAST_L1_BYTES
    assert len(logs) == 1


async def test_a_full_size_below_the_least_stays(make: MakeL1, cgroup: Cgroup) -> None:
    memories = shares(make, {"product": 1.0}, full=MIB)
    watched = watch(memories, full=MIB)
    cgroup.write(used=LIMIT)
    await watched.look()
    assert watched.bounds == {"product": MIB}


async def test_it_grows_in_parts_and_only_after_a_time_without_pressure(make: MakeL1, cgroup: Cgroup) -> None:
    memories = shares(make, {"product": 1.0})
    watched = watch(memories)
    cgroup.write(used=SHORT)
    await watched.look()
    least = watched.bounds["product"]
    # Between the shares nothing changes, however long.
    cgroup.write(used=BETWEEN)
    for _ in range(3 * CALM_LOOKS):
        await watched.look()
    assert watched.bounds["product"] == least
    # A look without calm begins the time anew.
    for used in (*[CALM] * (CALM_LOOKS - 1), BETWEEN, *[CALM] * (CALM_LOOKS - 1)):
        cgroup.write(used=used)
        await watched.look()
    assert watched.bounds["product"] == least
    with capture_logs() as logs:
        await watched.look()
        assert watched.bounds["product"] == least + FULL // GROWTH
        for _ in range(10 * CALM_LOOKS):
            await watched.look()
    assert watched.bounds["product"] == FULL
    assert len(logs) == GROWTH
    assert {(line["because"], line["log_level"]) for line in logs} == {("memory is no longer short", "info")}
    fill(memories["product"].l1, FULL)
    assert held(memories) > 0.99 * FULL - len(VALUE)


async def test_what_the_kernel_can_reclaim_is_no_pressure(make: MakeL1, cgroup: Cgroup) -> None:
    watched = watch(shares(make, {"product": 1.0}))
    cgroup.write(used=CALM, reclaimable=LIMIT - CALM)
    await watched.look()
    assert watched.bounds == {"product": FULL}


async def test_without_a_limit_nothing_changes(make: MakeL1, cgroup: Cgroup) -> None:
    watched = watch(shares(make, {"product": 1.0}), follows_limit=True)
    cgroup.write(limit=2**63 - 4096, used=2**40)
    await watched.look()
    assert watched.bounds == {"product": FULL}


async def test_a_limit_that_is_taken_away_gives_everything_back(make: MakeL1, cgroup: Cgroup) -> None:
    memories = shares(make, {"product": 0.8, "cart": 0.2})
    watched = watch(memories)
    before = dict(watched.bounds)
    cgroup.write(used=SHORT)
    await watched.look()
    assert sum(watched.bounds.values()) < sum(before.values())
    (cgroup.folder / "limit").write_text("max\n")
    await watched.look()
    assert watched.bounds == before


async def test_a_limit_that_is_changed_at_run_time_changes_the_default(make: MakeL1, cgroup: Cgroup) -> None:
    full = l1_bytes(LIMIT)
    memories = shares(make, {"product": 0.8, "cart": 0.2}, full=full)
    watched = watch(memories, follows_limit=True, full=full)
    for limit in (2 * LIMIT, LIMIT // 2):
        cgroup.write(limit=limit, used=0)
        await watched.look()
        assert l1_bytes(limit) - 4 <= sum(watched.bounds.values()) <= l1_bytes(limit)
    fill(memories["product"].l1, watched.bounds["product"])
    assert memories["product"].l1.stats().evictions == 0


async def test_what_was_set_does_not_follow_the_limit(make: MakeL1, cgroup: Cgroup) -> None:
    watched = watch(shares(make, {"product": 1.0}))
    cgroup.write(limit=2 * LIMIT, used=0)
    await watched.look()
    assert watched.bounds == {"product": FULL}


async def test_it_shrinks_in_steps_between_which_others_run(
    make: MakeL1, cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories = shares(make, {"product": 1.0})
    fill(memories["product"].l1, FULL)
    watched = watch(memories)
    seen = [held(memories)]

    async def note(_seconds: float) -> None:
        seen.append(held(memories))

    monkeypatch.setattr(pressure.asyncio, "sleep", note)
    cgroup.write(used=SHORT)
    await watched.look()
    assert len(seen) >= (FULL - LEAST_L1_BYTES) // pressure.STEP
    assert max(before - after for before, after in itertools.pairwise(seen)) <= pressure.STEP + 2 * len(VALUE)


@pytest.mark.parametrize("kind", [pytest.param("native", marks=needs_native), "clock"])
def test_a_real_process_stays_below_its_limit(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.pressed", kind, str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    start, left, most, limit = map(int, done.stdout.split())
    assert left < start
    assert most < limit
