"""A sidecar whose container is short of memory, on each engine: L1 is smaller, callers are answered, and /metrics tells."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cache_sidecar.core.container_memory import LEAST_L1_BYTES, MIB, l1_bytes
from tests.contract.test_metrics import ANY_PORT, values
from tests.support.cgroup import Cgroup
from tests.support.shop import Open, Shop
from tests.support.until import until

LIMIT = 1000 * MIB
LARGE = "x" * 16_000


async def bounds(shop: Shop) -> float:
    return sum((await values(shop))["cache_sidecar_l1_limit_bytes"].values())


async def test_memory_that_becomes_short_takes_entries_and_no_answers(
    open_shop: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = Cgroup(tmp_path)
    cgroup.write(limit=LIMIT, used=100 * MIB)
    cgroup.replace_kernel_s(monkeypatch)
    async with open_shop(web_address=ANY_PORT) as shop:
        full = await bounds(shop)
        assert full == pytest.approx(l1_bytes(LIMIT), abs=10)
        ids = [(await shop.create(description=LARGE)).product_id for _ in range(600)]

        async def is_held() -> bool:
            for id in ids:
                await shop.get(id)
            return (await values(shop))["cache_sidecar_l1_bytes"]["product",] > 600 * len(LARGE)

        # On a busy machine a heartbeat may come late, and then memory is emptied.
        await until(is_held)
        held = (await values(shop))["cache_sidecar_l1_bytes"]["product",]
        with capture_logs() as logs:
            # More than what L1 has is missing.
            cgroup.write(used=LIMIT)

            async def has_shrunk() -> bool:
                return await bounds(shop) < LEAST_L1_BYTES + 10

            await until(has_shrunk)
            found = await values(shop)
            share = found["cache_sidecar_l1_limit_bytes"]["product",]
            assert found["cache_sidecar_l1_bytes"]["product",] <= share < held
            assert found["cache_sidecar_l1_evictions_total"]["product",] > 0
            for id in ids:
                assert (await shop.get(id)).product.description == LARGE
            assert (await values(shop))["cache_sidecar_l1_bytes"]["product",] <= share
        # Other sidecars of this process take part.
        lines = [line for line in logs if line["event"] == "memory for cached entries changed"]
        assert {line["because"] for line in lines} == {"memory is short"}


async def test_the_log_says_why_l1_is_as_large_as_it_is(
    open_shop: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = Cgroup(tmp_path, is_v1=True)
    cgroup.write(limit=LIMIT, used=100 * MIB)
    cgroup.replace_kernel_s(monkeypatch)
    for setting, why in (
        ({}, "default for the container's memory limit of 1000 MiB"),
        ({"l1_max_bytes": 50 * MIB}, "set"),
    ):
        with capture_logs() as logs:
            async with open_shop(**setting):
                pass
        (line,) = [line for line in logs if line["event"] == "memory for cached entries"]
        assert (line["because"], line["l1_max_bytes"]) == (why, setting.get("l1_max_bytes", l1_bytes(LIMIT)))
