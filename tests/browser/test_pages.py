"""The pages in a real Chromium: what they show, by keyboard and for a screen reader, on a phone and at a desk."""

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import expect

from cache_sidecar.core.tasks import cancel_and_wait
from cache_sidecar.dashboard import server
from cache_sidecar.dashboard.targets import Listed
from cache_sidecar.terminal.access import Access
from tests.browser.conftest import PHONE, SCREENS, Look, Screen
from tests.contract.test_roles import ADMIN, FILE, READ
from tests.support.shop import Open, Shop
from tests.support.tokens import secret_file

ANY_PORT = "127.0.0.1:0"
SLOW = 60_000


async def buy(shop: Shop) -> None:
    """Reads products until it is cancelled."""
    ids = [(await shop.create()).product_id for _ in range(5)]
    while True:
        for id in ids:
            await shop.get(id)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.name)
@pytest.mark.parametrize("is_well", [True, False], ids=["well", "failing"])
async def test_the_page_of_a_sidecar_has_no_barriers(open_shop: Open, look: Look, screen: Screen, is_well: bool) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        shopping = asyncio.create_task(buy(shop))
        if not is_well:
            shop.app.dependencies.of("redis", "10.0.0.7:6379").report_failure(
                "READONLY You can't write", effect="reads take longer"
            )
        async with look(shop.app.web_address, screen) as shown:
            await expect(shown.page.locator("#state")).to_have_text("All well" if is_well else "1 failing", timeout=SLOW)
            await expect(shown.page.locator("#hottest li")).to_have_count(5, timeout=SLOW)
            await expect(shown.page.locator("#tile-hits .value")).to_contain_text("%", timeout=SLOW)
            await shown.picture(f"sidecar-{'well' if is_well else 'failing'}-{screen.name}")
            assert await shown.barriers() == []
            assert await shown.page.evaluate("document.documentElement.scrollWidth") <= screen.width
            assert shown.problems == []
        await cancel_and_wait(shopping)


@pytest.mark.parametrize("screen", SCREENS, ids=lambda screen: screen.name)
async def test_the_page_of_a_fleet_has_no_barriers(
    open_shop: Open, look: Look, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("SLOW_DELAY", "LARGE_LAG"):  # of a machine that is busy, too
        monkeypatch.setattr(f"cache_sidecar.dashboard.fleet.{limit}", float("inf"))
    async with open_shop() as one, open_shop() as other:
        other.app.dependencies.of("redis", "10.0.0.7:6379").report_failure(
            "READONLY You can't write", effect="reads take longer"
        )
        found = Listed([one.address, other.address, "127.0.0.1:1"])
        async with server.serving(ANY_PORT, found, Access("")) as address, look(address, screen) as shown:
            await expect(shown.page.locator("#state")).to_have_text("1 failing, 1 unreachable", timeout=SLOW)
            rows = shown.page.locator("#sidecars tr")
            await expect(rows).to_have_count(3)
            assert [(await rows.nth(number).inner_text()).split()[0] for number in range(2)] == [other.address, "127.0.0.1:1"]
            await shown.picture(f"fleet-{screen.name}")
            assert await shown.barriers() == []
            assert await shown.page.evaluate("document.documentElement.scrollWidth") <= screen.width
            assert shown.problems == []


async def test_it_loads_nothing_else_and_lets_nothing_else_run(open_shop: Open, look: Look) -> None:
    async with open_shop(web_address=ANY_PORT) as shop, look(shop.app.web_address) as shown:
        await expect(shown.page.locator("#state")).to_have_text("All well", timeout=SLOW)
        loaded = await shown.page.evaluate("performance.getEntriesByType('resource').map(one => new URL(one.name).pathname)")
        assert set(loaded) <= {"/events"}
        await shown.page.evaluate(
            "() => { const s = document.createElement('script'); try { s.textContent = 'window.ran = 1'; document.body.append(s); } catch {} }"
        )
        assert await shown.page.evaluate("window.ran") is None


async def test_figures_and_failures_are_live(open_shop: Open, look: Look) -> None:
    async with open_shop(web_address=ANY_PORT) as shop, look(shop.app.web_address, PHONE) as shown:
        page = shown.page
        await expect(page.locator("#state")).to_have_text("All well", timeout=SLOW)
        assert await shown.text("#announced") == "", "nothing is said that is no news"
        shopping = asyncio.create_task(buy(shop))
        await expect(page.locator("#methods")).to_contain_text("Get\u200bStats", timeout=SLOW)
        dependency = shop.app.dependencies.of("redis", "10.0.0.7:6379")
        dependency.report_failure("it is away", effect="reads take longer")
        await expect(page.locator("#problems")).to_contain_text("reads take longer", timeout=SLOW)
        await expect(page.locator("#announced")).to_have_text("Failing: redis 10.0.0.7:6379")
        assert "1 failing" in await page.title()
        dependency.report_success()
        await expect(page.locator("#problems")).to_be_hidden(timeout=SLOW)
        await expect(page.locator("#announced")).to_have_text("All dependencies work")
        await expect(page.locator("#events")).to_contain_text("works again")
        await cancel_and_wait(shopping)


async def test_a_switch_is_used_by_keyboard(open_shop: Open, look: Look) -> None:
    async with open_shop(web_address=ANY_PORT) as shop, look(shop.app.web_address) as shown:
        page = shown.page
        shadow = page.get_by_role("switch", name="Shadow mode of product", exact=True)
        await expect(shadow).to_be_enabled(timeout=SLOW)
        await shadow.focus()
        await page.keyboard.press("Space")
        dialog = page.get_by_role("dialog")
        await expect(dialog).to_contain_text("Have PostgreSQL answer every read of product")
        await page.keyboard.press("Escape")
        await expect(shadow).to_have_attribute("aria-checked", "false")
        assert await shadow.evaluate("one => one === document.activeElement"), "the focus is back"
        await page.keyboard.press("Space")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(shadow).to_have_attribute("aria-checked", "true", timeout=SLOW)
        await expect(page.locator("#changed")).to_contain_text("Changed at")
        rollout = page.get_by_role("spinbutton", name="Rollout of product in percent")
        await rollout.fill("25")
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Change it").click()
        await expect(page.locator("#policy")).to_contain_text("rollout = 25 (changed here)", timeout=SLOW)
        assert await shown.barriers() == []
        await page.get_by_role("button", name="Undo the changes of product").click()
        await page.get_by_role("button", name="Change it").click()
        await expect(rollout).to_have_value("100", timeout=SLOW)
        # What the sidecar refuses is said in its words.
        session = page.get_by_role("spinbutton", name="Rollout of session in percent")
        await session.fill("50")
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Change it").click()
        await expect(page.locator("#changed")).to_contain_text("Not changed", timeout=SLOW)
        await expect(page.locator("#changed")).to_contain_text("rollout")


async def test_a_token_is_entered_on_the_page(open_shop: Open, look: Look, tmp_path: Path) -> None:
    tokens = str(secret_file(tmp_path / "tokens", FILE))
    settings = {"web_address": ANY_PORT, "access_tokens_file": tokens, "local_admin": False}
    async with open_shop(**settings) as shop, look(shop.app.web_address) as shown:
        page = shown.page
        await expect(page.locator("#access")).to_contain_text("A token is needed", timeout=SLOW)
        assert await shown.barriers() == []
        shadow = page.get_by_role("switch", name="Shadow mode of product", exact=True)
        for token, is_enabled in [(READ, False), (ADMIN, True)]:
            await page.get_by_label("Bearer token").fill(token)
            await page.keyboard.press("Enter")
            await expect(page.locator("#state")).to_have_text("All well", timeout=SLOW)
            await expect(shadow).to_be_enabled(enabled=is_enabled, timeout=SLOW)
        await expect(page.locator("#access")).to_be_hidden()
        assert token not in await page.content()
        assert not await page.evaluate("document.cookie + localStorage.length + sessionStorage.length !== '00'")


async def test_it_says_that_it_is_not_connected_and_connects_again(open_shop: Open, look: Look) -> None:
    async with open_shop(web_address=ANY_PORT) as shop:
        address = shop.app.web_address
        opened = look(address)
        shown = await opened.__aenter__()
        await expect(shown.page.locator("#state")).to_have_text("All well", timeout=SLOW)
    try:
        await expect(shown.page.locator("#state")).to_have_text("Not connected", timeout=SLOW)
        await expect(shown.page.locator("#announced")).to_contain_text("Not connected")
        async with open_shop(web_address=address):
            await expect(shown.page.locator("#state")).to_have_text("All well", timeout=SLOW)
    finally:
        await opened.__aexit__(None, None, None)
