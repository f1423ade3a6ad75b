"""`cache-sidecar recommendations rebuild`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache_sidecar import cli
from cache_sidecar.core.errors import ServerUnreachable
from cache_sidecar.recommendations import rebuild as module
from cache_sidecar.recommendations.rebuild import Report, rebuild
from cache_sidecar.relay import recommendations as relay
from cache_sidecar.store.recommendation import ModelStore
from tests.integration.test_cli import run as command
from tests.support.databases import RELAY, SIDECAR, as_role, run
from tests.support.learning import dated, folding, has_leader, orders, position_of, same, stored, write_events
from tests.support.until import until


async def test_the_command_waits_for_the_relay_to_learn_everything_anew(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PAGE", 50)
    events = dated(orders(200))
    await write_events(database, events)
    async with folding(database):
        await until(lambda: position_of(database))
    before = await stored(database)
    # What is wrong with it is mended.
    await run(database, "UPDATE cache_sidecar.recommendation_items SET popularity = 7, customers = 1")
    await run(database, "DELETE FROM cache_sidecar.recommendation_users")
    file = tmp_path / "relay.toml"
    file.write_text(f'postgres_catalog = "{as_role(RELAY, database)}"\n')
    async with folding(database):
        await until(lambda: has_leader(database))
        code, out, err = await command("recommendations", "rebuild", "--config", str(file))
        assert code == 0, err
        assert out.startswith("Learned anew from 200 events, the oldest of 20")
    assert same(await stored(database), before)


def test_the_command_prints_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def learn(_: str, *, progress: Callable[[int, int], None]) -> Report:
        for done in (0, 1500):
            progress(done, 2000)
        return Report(2000, None)

    monkeypatch.setattr(module, "rebuild", learn)
    monkeypatch.setattr(cli, "PROGRESS_EVERY", 0.0)
    file = tmp_path / "relay.toml"
    file.write_text('postgres_catalog = "postgresql://shop@127.0.0.1:1/shop"\n')
    printed = CliRunner().invoke(cli.cli, ["recommendations", "rebuild", "--config", str(file)])
    assert printed.stderr == "0 of 2,000 events\n1,500 of 2,000 events\n"


async def test_without_a_relay_nothing_is_changed(database: str, tmp_path: Path) -> None:
    await write_events(database, dated(orders(20)))
    async with folding(database):
        await until(lambda: position_of(database))
    before = await position_of(database)
    with pytest.raises(ServerUnreachable, match="nothing was changed, since no relay folds events in"):
        await rebuild(database, progress=lambda *_: None)
    assert await position_of(database) == before


async def test_a_relay_that_stops_is_noticed(database: str) -> None:
    reached: list[tuple[int, int]] = []

    async def skip(_: float) -> None:
        """Passes the time at once."""

    await write_events(database, dated(orders(20)))
    async with ModelStore.open(database):  # leads, and folds nothing in
        with pytest.raises(ServerUnreachable, match="the model was cleared, but no relay folds events in"):
            await rebuild(database, progress=lambda *at: reached.append(at), sleep=skip)
    assert set(reached) == {(0, 20)}


async def test_without_events_the_model_is_empty(database: str) -> None:
    async with folding(database):
        await until(lambda: has_leader(database))
        report = await rebuild(database, progress=lambda *_: None)
    assert report.line() == "There are no events: the model is empty."


async def test_who_may_not_is_told_so(database: str, tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text(f'postgres_catalog = "{as_role(SIDECAR, database)}"\n')
    async with folding(database):
        await until(lambda: has_leader(database))
        code, out, err = await command("recommendations", "rebuild", "--config", str(file))
    assert (code, out) == (64, "")
    assert "permission denied" in err
