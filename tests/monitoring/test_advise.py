"""`cache-sidecar advise` by what a real Prometheus has of a real sidecar."""

import asyncio
import random
from pathlib import Path

import pytest

from cache_sidecar.advise import period
from cache_sidecar.advise.model import MIN_READS
from cache_sidecar.advise.report import report
from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.processes import Processes
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.monitoring.watch import PATIENCE, watching
from tests.support.databases import run
from tests.support.free_ports import ChoosePorts
from tests.support.shop import Open, Shop
from tests.support.until import until

PRODUCTS, BATCH = 300, 20


async def read(shop: Shop, times: int) -> None:
    draw = random.Random(5)
    for _ in range(times // BATCH):
        ids = [f"SKU-{number}" for number in draw.sample(range(PRODUCTS), BATCH)]
        await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=ids))


@pytest.mark.timeout(600)
async def test_a_period_in_prometheus_says_what_the_sidecar_says(
    open_shop: Open, programs: Path, processes: Processes, choose_ports: ChoosePorts, database: str, tmp_path: Path
) -> None:
    await run(
        database,
        "INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code) "
        f"SELECT 'SKU-' || n, 'product ' || n, 12, 'EUR' FROM generate_series(0, {PRODUCTS - 1}) n",
    )
    async with open_shop(web_address="127.0.0.1:0") as shop:
        target = {"sidecars": [shop.app.web_address]}
        async with watching(programs, processes, tmp_path, choose_ports(3), target) as watch:

            async def has(reads: int) -> bool:
                found = await watch.query("sum(cache_sidecar_reads_hit_total) >= 0")
                return bool(found) and float(found[0]["value"][1]) >= reads

            await until(lambda: has(0), seconds=PATIENCE)  # the first sample: an increase needs two
            await read(shop, 2 * MIN_READS)
            await until(lambda: has(2 * MIN_READS), seconds=PATIENCE)
            direct = await asyncio.to_thread(period.from_sidecars, [f"http://{shop.app.web_address}/metrics"], seconds=None)
            found = await asyncio.to_thread(period.from_prometheus, watch.url, period="10m", match='job="sidecars"')
            assert (found.sidecars, found.seconds) == (1, 600)
            (one,), (other,) = report(found).datasets, report(direct).datasets
            assert one.policy == other.policy
            assert one.today.l1_hits == pytest.approx(other.today.l1_hits, abs=0.02)
            assert one.simulated_l1_hits == pytest.approx(other.simulated_l1_hits, abs=0.02)
            assert one.sizes[2].l1_hits == pytest.approx(other.sizes[2].l1_hits, abs=0.02)
            for match, text in (("{", "parse error"), ('job="none"', "scrapes no sidecar with job=")):
                with pytest.raises(InputError, match=text):
                    await asyncio.to_thread(period.from_prometheus, watch.url, period="10m", match=match)
