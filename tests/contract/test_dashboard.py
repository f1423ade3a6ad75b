"""The page of a fleet, of sidecars on each engine: how they are found and asked, and what is said of those that do not answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cache_sidecar.cli import cli
from cache_sidecar.core.errors import InputError
from cache_sidecar.dashboard import server
from cache_sidecar.dashboard.readings import Figures
from cache_sidecar.dashboard.targets import Asking, Listed, Pods, Target
from cache_sidecar.terminal.access import Access
from tests.contract.test_roles import FILE, READ
from tests.injector.kube import serving as serving_kube
from tests.support import scrape
from tests.support.page_events import Events, Refused, head, stream
from tests.support.shop import Open
from tests.support.tokens import secret_file

ANY_PORT = "127.0.0.1:0"
NOWHERE = "127.0.0.1:1"
PODS = "/api/v1/namespaces/shop/pods"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.page.feed.EVERY", 0.05)
    monkeypatch.setattr("cache_sidecar.dashboard.fleet.EVERY", 0.1)
    monkeypatch.setattr("cache_sidecar.dashboard.fleet.FIND_EVERY", 0.1)


@asynccontextmanager
async def dashboard(found: Any, **access: Any) -> AsyncIterator[tuple[str, Events]]:
    async with server.serving(ANY_PORT, found, Access("", **access)) as address, stream(address) as events:
        yield address, events


def by_name(data: Any) -> dict[str, Any]:
    return {one["name"]: one for one in data["sidecars"]}


def is_compared(data: Any) -> bool:
    """Whether rates are known: a snapshot may have no news, and the first one no look before."""
    return bool(data.get("sidecars")) and all(one["reads"] is not None or one["unreachable"] for one in data["sidecars"])


async def test_sidecars_are_asked_by_grpc_and_by_their_metrics(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as one, open_shop(web_address=ANY_PORT) as other:
        metrics = f"http://{other.app.web_address}"
        id = (await one.create()).product_id
        async with dashboard(Listed([one.address, metrics, NOWHERE])) as (_, events):
            found = by_name(await events.until(is_compared))
            assert found.keys() == {one.address, metrics, NOWHERE}
            assert found[one.address]["version"] == found[metrics]["version"]
            assert found[one.address]["engine"] == found[metrics]["engine"]
            assert found[one.address]["problems"] == found[metrics]["problems"] == []
            assert NOWHERE in found[NOWHERE]["unreachable"]
            for shop in (one, other):
                await shop.get(id)
            seen = set[str]()

            def have_read(data: Any) -> bool:
                seen.update(row["name"] for row in data.get("sidecars") or [] if row["reads"])
                return seen == {one.address, metrics}

            await events.until(have_read)
            for shop in (one, other):
                shop.app.dependencies.of("redis", "a:1").report_failure("it is away", effect="none")
            data = await events.until(
                lambda data: is_compared(data) and sum(bool(row["problems"]) for row in data["sidecars"]) == 2
            )
            assert [row["rank"] for row in data["sidecars"]] == [0, 0, 1]
            assert "it is away" in by_name(data)[one.address]["problems"][0]
            assert by_name(data)[metrics]["problems"] == ["redis a:1"]


async def test_a_sidecar_whose_answer_cannot_be_read_does_not_end_the_page(
    open_shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Asking.ask

    async def fail_at_one(asking: Asking, target: Target) -> Figures:
        if target.address == NOWHERE:
            raise OverflowError("cannot convert float infinity to integer")
        return await ask(asking, target)

    monkeypatch.setattr(Asking, "ask", fail_at_one)
    async with open_shop() as shop, dashboard(Listed([shop.address, NOWHERE])) as (_, events):
        found = by_name(await events.until(is_compared))
        assert found[shop.address]["unreachable"] == ""
        assert "its answer cannot be read: OverflowError" in found[NOWHERE]["unreachable"]


async def test_a_token_is_sent_and_a_missing_one_is_the_reason(open_shop: Open, tmp_path: Path) -> None:
    tokens = str(secret_file(tmp_path / "tokens", FILE))
    async with open_shop(access_tokens_file=tokens) as shop:
        async with dashboard(Listed([shop.address])) as (_, events):
            (row,) = (await events.until(is_compared))["sidecars"]
            assert "UNAUTHENTICATED" in row["unreachable"]
        async with dashboard(Listed([shop.address]), token=READ) as (_, events):
            (row,) = (await events.until(is_compared))["sidecars"]
            assert row["unreachable"] == ""


async def test_pods_are_found_by_their_labels(open_shop: Open, tmp_path: Path) -> None:
    async with open_shop(web_address=ANY_PORT) as shop, serving_kube(tmp_path) as kube:
        _, _, port = shop.app.web_address.rpartition(":")

        def pod(name: str, ip: str, *, phase: str = "Running", label: str = "true") -> None:
            labels = {"cache-sidecar.io/injected": label}
            thing = {"metadata": {"name": name, "namespace": "shop", "labels": labels}, "status": {"podIP": ip, "phase": phase}}
            kube.put(f"{PODS}/{name}", thing)

        pod("cart-1", "127.0.0.1")
        pod("cart-2", "127.0.0.2")
        pod("done", "127.0.0.1", phase="Succeeded")
        pod("other", "127.0.0.1", label="false")
        kube.put(
            f"{PODS}/waiting", {"metadata": {"name": "waiting", "labels": {"cache-sidecar.io/injected": "true"}}, "status": {}}
        )
        pods = Pods(kube.config, "cache-sidecar.io/injected=true", ["shop"], port=int(port))
        async with dashboard(pods) as (_, events):
            found = by_name(await events.until(is_compared))
            assert found.keys() == {"shop/cart-1", "shop/cart-2"}
            assert found["shop/cart-1"]["unreachable"] == ""
            assert f"http://127.0.0.2:{port}/metrics" in found["shop/cart-2"]["unreachable"]
            del kube.objects[f"{PODS}/cart-2"]
            await events.until(lambda data: is_compared(data) and by_name(data).keys() == {"shop/cart-1"})
            kube.refuse[PODS] = 403
            data = await events.until(lambda data: data.get("problem"))
            assert "refused by the test" in data["problem"]
            assert by_name(data).keys() == {"shop/cart-1"}, "those of before are still asked"


async def test_nothing_is_asked_while_nobody_looks(open_shop: Open) -> None:
    async with open_shop() as shop, server.serving(ANY_PORT, Listed([shop.address]), Access("")) as address:
        answer, body = await scrape.fetch(address, head("GET /", address))
        assert answer.startswith("HTTP/1.1 200")
        assert "Content-Security-Policy: default-src 'none'; script-src 'sha256-" in answer
        assert len(body) < 60_000
        for refused in ("Host: rebound.example", "Origin: http://evil.example"):
            with pytest.raises(Refused):
                async with stream(address, refused):
                    pass
        assert (await scrape.fetch(address, head("GET /metrics", address)))[0].startswith("HTTP/1.1 404")
        assert (await scrape.fetch(address, head("POST /", address)))[0].startswith("HTTP/1.1 405")
        assert not [task for task in asyncio.all_tasks() if "Fleet" in task.get_coro().__qualname__]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--kubernetes"),
        (["a:1", "--kubernetes"], "--kubernetes"),
        (["a"], "HOST:PORT"),
        (["a:1", "--listen", "0.0.0.0:9470"], "not a loopback address"),
        (["a:1", "--listen", "nonsense"], "host:port"),
        (["a:1", "--cert", "x"], "--key"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["dashboard", *arguments])
    assert result.exit_code == 64
    assert words in result.output
    assert len(result.output.splitlines()) == 1


def test_an_address_is_checked_at_once() -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        Listed(["http://a"])
