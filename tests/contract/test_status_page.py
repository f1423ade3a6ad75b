"""The status page of a sidecar on each engine: what it shows and changes, to whom, and what it costs while nobody looks."""

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cache_sidecar.v1 import cart_service_pb2, cart_service_pb2_grpc
from cache_sidecar.v1 import product_service_pb2 as pb
from tests.contract.test_roles import ADMIN, APP, FILE, PLAIN, READ, Lines
from tests.contract.test_roles import lines as lines  # noqa: PLC0414  # a fixture
from tests.contract.test_tls import AUTHORITY, SERVER, credentials
from tests.support import inside, scrape
from tests.support.authority import listen
from tests.support.page_events import Refused, bearer, head, post, stream
from tests.support.shop import Open, Shop, refused
from tests.support.tokens import secret_file
from tests.support.until import until

ANY_PORT = "127.0.0.1:0"
HALF = {"policy": {"dataset": "product", "rollout": 50}, "updateMask": "rollout"}
# The most that the page may have.
MAX_BYTES = 60_000


def web(shop: Shop) -> str:
    return str(shop.app.web_address)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return secret_file(tmp_path / "tokens", FILE)


async def test_the_page_is_one_file_that_may_run_nothing_else(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        answer, body = await scrape.fetch(web(shop), head("GET /", web(shop)))
        headers = dict(line.lower().split(": ", 1) for line in answer.split("\r\n")[1:])
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert len(body) < MAX_BYTES
        policy = dict(
            part.split(" ", 1) for part in answer.partition("Content-Security-Policy: ")[2].partition("\r\n")[0].split("; ")
        )
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
        for kind, tag in {"script-src": "script", "style-src": "style"}.items():
            (found,) = re.findall(rf"<{tag}>(.*?)</{tag}>", body, re.DOTALL)
            assert policy[kind] == f"'sha256-{base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()}'"
        assert not re.search(r"<[^>]+\s(on\w+|style)=", body), "what the policy forbids"
        links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", body.partition("<script>")[0])
        assert all(link.startswith(("data:", "#")) for link in links), links
        assert "innerHTML" not in body
        only_head, nothing = await scrape.fetch(web(shop), head("HEAD /", web(shop)))
        assert (only_head, nothing) == (answer, "")


async def test_it_is_sent_compressed_to_browsers(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        _, plain = await scrape.fetch(web(shop), head("GET /", web(shop)))
        packed = await scrape.fetch_bytes(web(shop), head("GET /", web(shop), "Accept-Encoding: gzip, br"))
        answer, _, body = packed.partition(b"\r\n\r\n")
        assert b"Content-Encoding: gzip" in answer
        assert gzip.decompress(body).decode() == plain


async def test_it_shows_calls_tiers_dependencies_and_the_policy(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        id = (await shop.create()).product_id
        for _ in range(3):
            await shop.get(id)
        await refused(shop.get("none"))
        async with stream(web(shop)) as events:
            _, first = await events.next()
            assert first["version"]
            assert first["address"] == shop.address
            product = first["datasets"]["product"]
            assert sum(product["hits"].values()) == 4
            assert product["hits"]["l1"] >= 1
            assert product["entries"] >= 1
            call = first["calls"]["ProductService/GetProduct"]
            assert (call["count"], call["failed"]) == (4, {"NOT_FOUND": 1})
            assert sum(call["buckets"]) == 4
            assert len(call["buckets"]) == len(first["bounds"]) + 1
            assert first["policy"]["datasets"]["product"]["rollout"] == [100.0, "built in"]
            assert [event["text"] for event in first["events"]][-1].startswith("started")
            assert first["may_change"]
            await events.until(lambda data: data["failing"] == [] and data["invalidations"]["fresh"] == 256)
            shop.app.dependencies.of("redis", "a:1").report_failure("it is away", effect="none")
            failing = {"what": "redis", "which": "a:1", "effect": "none", "reason": "it is away", "since": 0}
            news = await events.until(lambda data: failing in [each | {"since": 0} for each in data["failing"]])
            assert "version" not in news, "that was said"
            assert "policy" not in news


async def test_a_failure_is_an_event_until_it_is_over_and_after(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop, stream(web(shop)) as events:
        dependency = shop.app.dependencies.of("redis", "a:1")
        dependency.report_failure("it is away", effect="reads take longer")
        dependency.report_success()

        def of_the_node(data: dict[str, Any]) -> list[tuple[str, str]]:
            return [(event["level"], event["text"]) for event in data.get("events", ()) if "redis a:1" in event["text"]]

        news = await events.until(lambda data: len(of_the_node(data)) == 2)
        assert of_the_node(news) == [
            ("info", "a dependency works again: redis a:1"),
            ("warning", "a dependency fails: redis a:1: reads take longer: it is away"),
        ]


async def test_the_hottest_keys_are_sampled_while_somebody_looks(open_shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.page.feed.EVERY", 0.05)
    async with open_shop(web_address=ANY_PORT) as shop:
        id = (await shop.create()).product_id
        await until(lambda: is_hit(shop, id))
        sampler = inside.datasets_of(shop.app)["product"].sampler
        assert sampler.hottest is None
        usual = sampler.interval()
        async with stream(web(shop)) as events:

            async def is_shown() -> bool:
                await shop.get(id)
                _, data = await events.next()
                return any(key[0] == id for key in data["hottest"].get("product", {}).get("keys", []))

            await until(is_shown)
            assert sampler.interval() < usual
        await until(lambda: sampler.hottest is None)
        assert sampler.interval() == usual


async def is_hit(shop: Shop, id: str) -> bool:
    return (await shop.get(id)).cache.source == 1


async def test_no_ids_of_people_are_shown(open_shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.page.feed.EVERY", 0.05)
    async with open_shop(web_address=ANY_PORT) as shop, stream(web(shop)) as events:
        await events.next()
        user = f"user-{uuid4().hex}"
        carts = cart_service_pb2_grpc.CartServiceStub(shop.channel)
        for _ in range(5):
            await carts.GetCart(cart_service_pb2.GetCartRequest(user_id=user))
        data = await events.until(lambda data: data["calls"].get("CartService/GetCart", {}).get("count") == 5)
        assert user not in json.dumps(data)
        assert not data["hottest"].keys() & {"cart", "session", "recommendation", "recommendation_profile"}


async def test_looking_needs_the_role_that_stats_need(open_shop: Open, tokens: Path, lines: Lines) -> None:
    async with open_shop(web_address=ANY_PORT, access_tokens_file=str(tokens), local_admin=False) as shop:
        for headers, status in {(): 401, (bearer("nothing"),): 401, (bearer(APP),): 403}.items():
            with pytest.raises(Refused, match=f"HTTP/1.1 {status} "):
                async with stream(web(shop), *headers):
                    pass
        for token, may_change in {READ: False, ADMIN: True, PLAIN: False}.items():
            async with stream(web(shop), bearer(token)) as events:
                _, first = await events.next()
                assert first["may_change"] is may_change
                assert may_change or "admin" in first["why_not"]
        looked = [more for event, more in lines if event == "admin call"]
        assert [one["method"].rpartition("/")[2] for one in looked] == ["GetStats"] * 3
        assert looked[1]["caller"] == "token ops"
        assert looked[1]["peer"].startswith("ipv4:127.0.0.1:")
        assert {more["result"] for event, more in lines if event == "access refused"} >= {
            "UNAUTHENTICATED",
            "PERMISSION_DENIED",
        }


async def test_who_may_no_longer_look_is_told_so(open_shop: Open, tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache_sidecar.page.feed.EVERY", 0.05)
    async with (
        open_shop(web_address=ANY_PORT, access_tokens_file=str(tokens)) as shop,
        stream(web(shop), bearer(READ)) as events,
    ):
        await events.next()
        tokens.write_text(FILE.replace(READ, ADMIN + "x"))
        while (event := await events.next())[0] == "snapshot":
            pass
        assert event[0] == "refused"
        assert "token" in event[1]["message"]


async def test_a_change_is_a_call_of_update_policy(open_shop: Open, tokens: Path, lines: Lines) -> None:
    async with open_shop(web_address=ANY_PORT, access_tokens_file=str(tokens), local_admin=False) as shop:
        async with stream(web(shop), bearer(READ)) as events:
            await events.next()
            assert (await post(web(shop), HALF))[0] == "HTTP/1.1 401 Unauthorized"
            status, text = await post(web(shop), HALF, bearer(READ))
            assert status == "HTTP/1.1 403 Forbidden"
            assert "admin" in text
            status, text = await post(web(shop), HALF, bearer(ADMIN), f"Origin: http://{web(shop)}")
            assert status == "HTTP/1.1 200 OK"
            assert json.loads(text)["policy"]["rollout"] == 50
            news = await events.until(lambda data: "policy" in data)
            assert news["policy"]["datasets"]["product"]["rollout"] == [50.0, "changed here"]
            assert "policy product.rollout: 100.0 -> 50.0" in [event["text"] for event in news["events"]]
            assert "the policy of product was updated by token ops" in [event["text"] for event in news["events"]]
            undo = {"policy": {"dataset": "product"}, "resetMask": "rollout,shadow"}
            assert (await post(web(shop), undo, bearer(ADMIN)))[0] == "HTTP/1.1 200 OK"
            news = await events.until(lambda data: "policy" in data)
            assert news["policy"]["datasets"]["product"]["rollout"] == [100.0, "built in"]
        (line, _) = [more for event, more in lines if event == "admin call" and more["method"].endswith("UpdatePolicy")]
        assert (line["caller"], line["values"], line["result"]) == ("token ops", {"rollout": 50.0}, "OK")


@pytest.mark.parametrize(("is_local_admin", "status"), [(True, 200), (False, 403)])
async def test_without_tokens_the_setting_decides(open_shop: Open, is_local_admin: bool, status: int) -> None:
    async with open_shop(web_address=ANY_PORT, local_admin=is_local_admin) as shop:
        found, text = await post(web(shop), HALF)
        assert found.startswith(f"HTTP/1.1 {status} "), text
        async with stream(web(shop)) as events:
            assert (await events.next())[1]["may_change"] is is_local_admin


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Origin: http://evil.example"], 403),
        (["Origin: null"], 403),
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Sec-Fetch-Site: same-site"], 403),
        (["Host: rebound.example:9464"], 421),
        (["Host: 127.0.0.1", "Host: 127.0.0.1"], 421),
        (["Host: [::1].rebound.example"], 421),
        (["Host: 127.0.0.1.rebound.example"], 421),
        (["Host: 127.0.0.1:x@rebound.example"], 421),
        (["Host: localhost."], 421),
        (["Content-Type: text/plain"], 415),
        (["Content-Type: application/x-www-form-urlencoded"], 415),
    ],
)
async def test_other_sites_change_nothing(open_shop: Open, headers: list[str], status: int) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        found, _ = await post(web(shop), HALF, *headers)
        assert found.startswith(f"HTTP/1.1 {status} ")
        if status in {403, 421}:
            with pytest.raises(Refused, match=f"HTTP/1.1 {status} "):
                async with stream(web(shop), *headers):
                    pass
        assert (await scrape.fetch(web(shop)))[0].startswith("HTTP/1.1 200"), "Prometheus asks by any name"
        async with stream(web(shop)) as events:
            assert (await events.next())[1]["policy"]["datasets"]["product"]["rollout"] == [100.0, "built in"]


@pytest.mark.parametrize("host", ["localhost:9464", "[::1]:9464", "10.0.0.7", "LOCALHOST"])
async def test_addresses_and_localhost_are_nobody_elses(open_shop: Open, host: str) -> None:
    async with open_shop(web_address=ANY_PORT) as shop, stream(web(shop), f"Host: {host}", f"Origin: http://{host}") as events:
        await events.next()


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        (b"{", 400, "UpdatePolicyRequest"),
        (b"x" * 5000, 400, "larger"),
        ({"policy": {"dataset": "nothing", "rollout": 1}}, 400, "there is no dataset"),
        ({"policy": {"dataset": "product", "rollout": 101}}, 400, "rollout"),
        ({"policy": {"dataset": "session", "rollout": 50}}, 400, "rollout"),
        ({"policy": {"dataset": "product", "colour": 1}}, 400, "colour"),
    ],
)
async def test_a_wrong_change_is_refused_with_the_reason(open_shop: Open, change: Any, status: int, words: str) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        found, text = await post(web(shop), change)
        assert found.startswith(f"HTTP/1.1 {status} ")
        assert words in text


async def test_so_many_may_look_and_their_streams_end_with_the_sidecar(
    open_shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache_sidecar.page.feed.MAX_READERS", 1)
    async with open_shop(web_address=ANY_PORT) as shop:
        async with stream(web(shop)) as events:
            await events.next()
            with pytest.raises(Refused, match=r"HTTP/1.1 503 .*too many"):
                async with stream(web(shop)):
                    pass
            assert (await scrape.fetch(web(shop)))[0].startswith("HTTP/1.1 200"), "metrics are served"

        async def is_free() -> bool:
            try:
                async with stream(web(shop)) as again:
                    await again.next()
            except Refused:
                return False
            return True

        await until(is_free)


async def test_a_sidecar_that_asks_for_certificates_says_what_to_use_instead(open_shop: Open, tmp_path: Path) -> None:
    settings = listen(tmp_path, SERVER, AUTHORITY.cert)
    client = credentials(AUTHORITY.client("cart.shop"))
    async with open_shop(web_address=ANY_PORT, credentials=client, trusted=False, **settings) as shop:
        with pytest.raises(Refused, match=r"HTTP/1.1 403 .*--cert"):
            async with stream(web(shop)):
                pass
        status, text = await post(web(shop), HALF)
        assert status == "HTTP/1.1 403 Forbidden"
        assert "cache-sidecar policy" in text or "`policy`" in text or "and `policy`" in text


async def test_what_is_not_there_says_what_is(open_shop: Open) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        answer, text = await scrape.fetch(web(shop), head("GET /favicon.ico", web(shop)))
        assert answer.startswith("HTTP/1.1 404")
        assert "GET /metrics" in text
        assert (await scrape.fetch(web(shop), head("GET /policy", web(shop))))[0].startswith("HTTP/1.1 405")
        assert await shop.products.GetProduct(pb.GetProductRequest(product_id=(await shop.create()).product_id))
