"""The policy in force: a file that changes, a ConfigMap that is swapped, a file that is wrong, and values put over it."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cache_sidecar.config import policy
from cache_sidecar.config.live_policy import LivePolicy, Origin
from cache_sidecar.core.errors import SettingsError
from tests.support.clocks import ManualClock
from tests.support.config_map import START, ConfigMap
from tests.support.until import until


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def config(tmp_path: Path) -> ConfigMap:
    return ConfigMap(tmp_path, "[product]\nl2_ttl = 60\n")


@pytest.fixture
def live(config: ConfigMap, clock: ManualClock) -> LivePolicy:
    return LivePolicy(str(config.file), clock=clock)


def look(live: LivePolicy) -> None:
    """Looks until nothing is news any more."""
    for _ in range(3):
        live.look()


def l2_ttl(live: LivePolicy) -> float:
    return live["product"].l2_ttl


def test_without_a_file_it_is_what_ships(clock: ManualClock) -> None:
    live = LivePolicy("", clock=clock)
    look(live)
    assert dict(live) == policy.default()
    assert (live.version, live.file, live.load_time, live.refused, live.last_error) == (1, "", START, 0, "")
    assert live.origin("product", "l2_ttl") is Origin.BUILT_IN


def test_a_swapped_config_map_is_taken(live: LivePolicy, config: ConfigMap, clock: ManualClock) -> None:
    read = live.reader("product")
    config.swap("[product]\nl2_ttl = 61\n")
    clock.advance(5)
    with capture_logs() as logs:
        look(live)
    assert (l2_ttl(live), read().l2_ttl, live.version, live.load_time) == (61, 61, 2, START + 5)
    assert [(log["event"], log["changes"]) for log in logs] == [("policy changed", ["product.l2_ttl: 60.0 -> 61.0"])]
    config.swap("[product]\nl1_soft_ttl = 7\n")
    look(live)
    assert (l2_ttl(live), live["product"].l1_soft_ttl) == (3600, 7), "what a file does not name is as it ships"


def test_a_file_written_in_place_is_taken_when_its_writer_has_finished(live: LivePolicy, config: ConfigMap) -> None:
    file = config.file.resolve()
    for number, text in enumerate(("", "[product]\nl2_ttl = 6", "[product]\nl2_ttl = 61\n"), start=1):
        file.write_text(text)
        os.utime(file, (START + number, START + number))
        live.look()
        assert l2_ttl(live) == 60
    live.look()
    assert l2_ttl(live) == 61


def test_a_file_that_says_the_same_changes_nothing(live: LivePolicy, config: ConfigMap, clock: ManualClock) -> None:
    config.swap("[product]\nl2_ttl = 60.0  # in seconds\n")
    clock.advance(5)
    with capture_logs() as logs:
        look(live)
    assert (live.version, live.load_time, logs) == (1, START + 5, [])


@pytest.mark.parametrize("text", ["[product", "[product]\nl2_tll = 61\n", "[product]\nl2_ttl = -1\n", "[sofa]\n"])
def test_a_wrong_file_leaves_the_policy_and_says_why_once(
    live: LivePolicy, config: ConfigMap, clock: ManualClock, text: str
) -> None:
    config.swap(text)
    clock.advance(5)
    with capture_logs() as logs:
        look(live)
    assert (l2_ttl(live), live.version, live.load_time) == (60, 1, START)
    assert (live.refused, live.last_error_time) == (1, START + 5)
    assert live.last_error.startswith(str(config.file))
    assert [(log["event"], log["error"]) for log in logs] == [
        ("invalid policy file ignored; the previous policy stays in effect", live.last_error)
    ]
    config.swap("[product]\nl2_ttl = 62\n")
    look(live)
    assert (l2_ttl(live), live.refused, live.last_error) == (62, 1, "")


def test_a_file_that_vanishes_leaves_the_policy(live: LivePolicy, config: ConfigMap) -> None:
    config.file.unlink()
    look(live)
    assert (l2_ttl(live), live.refused) == (60, 1)
    assert "No such file" in live.last_error
    config.file.symlink_to("..data/policy.toml")
    look(live)
    assert (l2_ttl(live), live.last_error) == (60, "")


def test_a_wrong_file_is_refused_at_the_start(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(SettingsError, match="cannot read the policy file"):
        LivePolicy(str(tmp_path / "none.toml"), clock=clock)


def test_what_is_put_over_the_file_stays_there_until_it_is_given_back(live: LivePolicy, config: ConfigMap) -> None:
    live.override("product", {"rollout": 10.0, "l2_ttl": 5.0})
    assert (live["product"].rollout, l2_ttl(live), live.version) == (10, 5, 2)
    config.swap("[product]\nl2_ttl = 61\nstale_limit = 9\n")
    look(live)
    assert (live["product"].rollout, l2_ttl(live), live["product"].stale_limit) == (10, 5, 9)
    origins = {key: live.origin("product", key) for key in ("rollout", "l2_ttl", "stale_limit", "jitter")}
    assert origins == {
        "rollout": Origin.OVERRIDE, "l2_ttl": Origin.OVERRIDE, "stale_limit": Origin.FILE, "jitter": Origin.BUILT_IN,
    }  # fmt: skip
    live.override("product", {"rollout": 20.0}, give_back=["l2_ttl", "rollout"])
    assert (live["product"].rollout, l2_ttl(live), live.origin("product", "l2_ttl")) == (20, 61, Origin.FILE)
    assert live["cart"] == policy.default()["cart"]


def test_a_value_that_makes_no_sense_is_refused_and_changes_nothing(live: LivePolicy) -> None:
    live.override("product", {"l1_soft_ttl": 250.0})
    for dataset, values in {"product": {"l1_hard_ttl": 200.0}, "session": {"rollout": 50.0}}.items():
        with pytest.raises(SettingsError):
            live.override(dataset, values)
    assert (live["product"].l1_hard_ttl, live["session"].rollout, live.version) == (300, 100, 2)


def test_a_file_that_contradicts_what_is_put_over_it_is_refused(live: LivePolicy, config: ConfigMap) -> None:
    live.override("product", {"l1_soft_ttl": 250.0})
    config.swap("[product]\nl1_soft_ttl = 10\nl1_hard_ttl = 200\n")
    look(live)
    assert live["product"].l1_hard_ttl == 300
    assert "with the overrides by AdminService: product: l1_soft_ttl (250)" in live.last_error


def test_followers_hear_of_what_changed_when_it_is_in_force(live: LivePolicy, config: ConfigMap) -> None:
    heard: list[tuple[str, policy.DatasetPolicy, policy.DatasetPolicy]] = []
    live.follow(lambda name, old: heard.append((name, old, live[name])))
    before = dict(live)
    config.swap("[product]\nl2_ttl = 61\n[cart]\nl2_ttl = 62\n")
    look(live)
    live.override("product", {"l2_ttl": 61.0})
    assert sorted(name for name, _, _ in heard) == ["cart", "product"]
    for name, old, new in heard:
        assert (old, new) == (before[name], live[name])


async def test_it_looks_by_itself(live: LivePolicy, config: ConfigMap) -> None:
    live.start()
    config.swap("[product]\nl2_ttl = 61\n")
    await until(lambda: l2_ttl(live) == 61)
    await live.stop()
