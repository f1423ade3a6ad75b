"""`cache-sidecar advise` against real sidecars: what it predicts is what another sidecar then does."""

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from cache_sidecar.advise import period
from cache_sidecar.advise.model import MIN_READS, Dataset
from cache_sidecar.advise.report import Report, report
from cache_sidecar.cli import cli
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.support.clocks import ManualClock
from tests.support.databases import run
from tests.support.shop import Open, Shop

ANY_PORT = "127.0.0.1:0"
PRODUCTS, BATCH, BATCHES = 1500, 10, 500
# Memory has room for so many of them: it is shared with the datasets of recommendations.
ENTRIES = 150
SHARE = 1 / 1.15


@pytest.fixture
async def ids(database: str) -> list[str]:
    await run(
        database,
        "INSERT INTO cache_sidecar.products (product_id, title, price_units, currency_code) "
        f"SELECT 'SKU-' || lpad(n::text, 6, '0'), 'product ' || n, 12, 'EUR' FROM generate_series(1, {PRODUCTS}) n",
    )
    return [f"SKU-{number:06}" for number in range(1, PRODUCTS + 1)]


def zipf(ids: Sequence[str], reads: int) -> list[str]:
    sums = list(accumulate(rank**-0.9 for rank in range(1, len(ids) + 1)))
    return random.Random(11).choices(ids, cum_weights=sums, k=reads)


async def read(shop: Shop, ids: Sequence[str]) -> None:
    """Reads products, `BATCH` at a time."""
    for first in range(0, len(ids), BATCH):
        await shop.products.BatchGetProducts(pb.BatchGetProductsRequest(product_ids=ids[first : first + BATCH]))


async def asked(*shops: Shop, seconds: float | None = None) -> Report:
    """Returns what `advise` makes of the metrics of sidecars."""
    urls = [f"http://{shop.app.web_address}/metrics" for shop in shops]
    return report(await asyncio.to_thread(period.from_sidecars, urls, seconds=seconds))


async def test_another_size_of_memory_hits_as_often_as_predicted(open_shop: Open, ids: list[str]) -> None:
    reads = zipf(ids, BATCH * BATCHES)

    async def products_with(entries: float) -> Dataset:
        async with open_shop(web_address=ANY_PORT, l1_max_entries=round(entries / SHARE)) as shop:
            await read(shop, reads)
            (found,) = (await asked(shop)).datasets
            return found

    products = await products_with(ENTRIES)
    assert products.keys == len(set(reads))
    measured = {size: (await products_with(ENTRIES * size)).today.l1_hits for size in products.sizes}
    predicted = {size: one.l1_hits for size, one in products.sizes.items()}
    assert predicted == pytest.approx(measured, abs=0.04)
    assert measured[4] - measured[0.25] > 0.2


async def test_other_times_load_as_much_as_predicted(open_shop: Open, ids: list[str], namespace: str, tmp_path: Path) -> None:
    reads = zipf(ids[:200], 1500)

    async def products_with(name: str, policy: str) -> tuple[Dataset, float]:
        clock, file = ManualClock(), tmp_path / name
        file.write_text(f"[product]\ninspect_every = 0\n{policy}\n")
        # Each has a namespace of its own, with nothing in Redis.
        settings = {"namespace": f"{namespace}{name}", "policy_file": str(file), "web_address": ANY_PORT}
        async with open_shop(clock=clock, **settings) as shop:
            for id in reads:
                clock.advance(6)
                await shop.get(id)
            found = await asked(shop)
            return found.datasets[0], found.period.seconds

    products, seconds = await products_with("a", "")
    in_l2, seconds_l2 = await products_with("b", "l2_ttl = 900")
    in_l1, seconds_l1 = await products_with("c", "l1_soft_ttl = 60\nl1_hard_ttl = 75")
    predicted = products.l2_ttls[0.25]
    assert predicted.statements * seconds == pytest.approx(in_l2.today.statements * seconds_l2, rel=0.15)
    assert in_l2.today.statements * seconds_l2 > 1.5 * products.today.statements * seconds
    assert predicted.oldest == in_l2.today.oldest == pytest.approx(1.1 * (300 + 900))
    predicted = products.l1_ttls[0.25]
    assert predicted.l1_hits == pytest.approx(in_l1.today.l1_hits, abs=0.03)
    assert predicted.redis * seconds == pytest.approx(in_l1.today.redis * seconds_l1, rel=0.1)
    assert products.today.l1_hits - in_l1.today.l1_hits > 0.1


async def test_the_command_prints_tables_and_the_lines_to_apply(open_shop: Open, ids: list[str]) -> None:
    async with open_shop(web_address=ANY_PORT, l1_max_entries=round(ENTRIES / SHARE)) as shop:
        await read(shop, zipf(ids, 2 * MIN_READS))
        url = f"http://{shop.app.web_address}/metrics"

        async def advise(*options: str) -> Result:
            return await asyncio.to_thread(CliRunner().invoke, cli, ["advise", url, *options])

        shown = await advise()
        assert shown.exit_code == 0, shown.output
        assert "product: " in shown.stdout
        assert "l1_max_bytes x 2" in shown.stdout
        assert "  l1_max_entries = " in shown.stdout.partition("In the settings")[2]
        found = json.loads((await advise("--json")).stdout)
        products = found["datasets"]["product"]
        assert products["enough_reads"]
        assert set(products["sizes"]) == {"0.25", "0.5", "2", "4"}
        assert products["policy"]["l2_ttl"] == 3600
        assert [change["setting"] for change in found["changes"]] == ["l1_max_entries"]
        # From now on nothing is read.
        assert "Nothing was read." in (await advise("--seconds", "1")).stdout


def test_what_cannot_be_read_is_one_line(open_metrics: str) -> None:
    for arguments, code, text in (
        (["http://127.0.0.1:1/metrics"], 69, "http://127.0.0.1:1/metrics does not answer: "),
        (["file:///etc/passwd"], 64, "'file:///etc/passwd' is not a URL: it has to begin with http:// or https://"),
        ([open_metrics], 64, "has no metrics of a sidecar"),
        (["--prometheus", open_metrics, "--period", "soon"], 64, "--period 'soon' is not a period of Prometheus"),
        (["--prometheus", open_metrics], 64, "does not answer as a Prometheus does"),
        ([f"{open_metrics}/words"], 64, "has no metrics of a sidecar"),
        ([f"{open_metrics}/grpc"], 64, "/grpc does not speak HTTP as a server of metrics does: BadStatusLine"),
        ([f"{open_metrics}/404"], 64, "/404 answers 404 Not Found"),
        ([f"{open_metrics}/503"], 69, "/503 answers 503 Service Unavailable"),
        ([f"{open_metrics}/inf"], 64, "says that cache_sidecar_reads_hit_total is inf, which no sidecar does"),
        (["--prometheus", f"{open_metrics}/nan"], 64, " is nan, which no sidecar does"),
        (["--prometheus", f"{open_metrics}/minus"], 64, " is -1, which no sidecar does"),
        (["--prometheus", "http://127.0.0.1:1", "http://127.0.0.1:2"], 64, "--prometheus goes with --period and --match"),
    ):
        done = CliRunner().invoke(cli, ["advise", *arguments])
        assert (done.exit_code, done.stdout) == (code, ""), done.output
        assert text in done.stderr
        assert done.stderr.count("\n") == 1


def test_an_answer_has_a_time_limit_as_a_whole(open_metrics: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(period, "MAX_SECONDS", -1.0)
    done = CliRunner().invoke(cli, ["advise", open_metrics])
    assert (done.exit_code, "has not sent its answer within" in done.stderr) == (69, True), done.output


_BUILD = b'cache_sidecar_build_info{process="sidecar"} 1\ncache_sidecar_simulated_reads_total{dataset="product"} 1\n'
_VECTOR = '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, "%s"]}]}}'
PAGES = {
    "": b"hello 1\n",
    "words": b"hello world\n",
    "inf": _BUILD + b'cache_sidecar_reads_hit_total{dataset="product",tier="l1"} +Inf\n',
    "nan": (_VECTOR % "NaN").encode(),
    "minus": (_VECTOR % "-1").encode(),
}


@pytest.fixture
def open_metrics() -> Iterator[str]:
    """A server of pages that are no metrics."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = self.path.split("/")[1]
            if page == "grpc":
                self.wfile.write(b"\0\0\x12\4\0\0\0\0\0\n")
                return
            body = PAGES.get(page, PAGES[""])
            self.send_response(int(page) if page.isdecimal() else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
