"""A browser, and pages in it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.browser import build
from tests.e2e.build import CannotBuild

# Pictures of the last run, to look at.
PICTURES = Path(__file__).parents[2] / "build" / "pages"


class Screen(NamedTuple):
    """What a page is shown on."""

    name: str
    width: int
    height: int
    scheme: str


DESK, DARK = Screen("desk-light", 1440, 900, "light"), Screen("desk-dark", 1440, 900, "dark")
PHONE, DARK_PHONE = Screen("phone-light", 360, 740, "light"), Screen("phone-dark", 360, 740, "dark")
SCREENS = [DESK, DARK, PHONE, DARK_PHONE]


class Shown(NamedTuple):
    """A page in the browser."""

    page: Page
    problems: list[str]
    "What its console complains of."

    async def barriers(self) -> list[Any]:
        """Returns what axe finds wrong, by rule, with the elements."""
        # Past the page's own policy, which lets nothing run in it.
        session = await self.page.context.new_cdp_session(self.page)
        await session.send("Runtime.evaluate", {"expression": build.axe()})
        rules = (
            "axe.run().then(found => JSON.stringify(found.violations.map(one => [one.id, one.nodes.map(node => node.html)])))"
        )
        found = await session.send("Runtime.evaluate", {"expression": rules, "awaitPromise": True})
        return list(json.loads(found["result"]["value"]))

    async def text(self, selector: str) -> str:
        """Returns the text of an element."""
        return await self.page.locator(selector).inner_text()

    async def picture(self, name: str) -> None:
        """Takes a picture of the whole page."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


Look = Callable[..., AbstractAsyncContextManager[Shown]]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Chromium."""
    try:
        program, environment = build.chromium()
        build.axe()
    except CannotBuild as error:
        pytest.skip(str(error))
    async with async_playwright() as playwright:
        # Without a sandbox, as containers that run tests rarely let it have its own namespaces; it opens our own pages only.
        opened = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"], env=dict(environment)
        )
        yield opened
        await opened.close()


@pytest.fixture
def look(browser: Browser) -> Look:
    """Opens a page: `look(address, screen)`."""

    @asynccontextmanager
    async def looking(address: str, screen: Screen = DESK) -> AsyncIterator[Shown]:
        context = await browser.new_context(
            viewport={"width": screen.width, "height": screen.height},
            color_scheme="dark" if screen.scheme == "dark" else "light",
        )
        try:
            page = await context.new_page()
            page.set_default_timeout(60_000)
            shown = Shown(page, [])
            page.on(
                "console", lambda message: shown.problems.append(message.text) if message.type in {"error", "warning"} else None
            )
            page.on("pageerror", lambda error: shown.problems.append(str(error)))
            await page.goto(f"http://{address}/")
            yield shown
        finally:
            await context.close()

    return looking
