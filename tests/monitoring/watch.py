"""A real Prometheus and a real Alertmanager, which watch a stack, and a webhook to which alerts come.

Minutes of the rules are two seconds here: a day is 48 minutes, and a scrape is a second.
"""

import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from ruamel.yaml import YAML

from cache_sidecar.devstack.processes import Processes
from tests.monitoring.build import ALERTMANAGER, PROMETHEUS
from tests.support.until import until
from tests.unit.test_monitoring import FOLDER

_SECONDS = {"m": 60, "h": 3600, "d": 86400}
# How much faster time passes.
FASTER = 30
# Seconds after which an alert that should have come is taken for lost, on a busy machine.
PATIENCE = 300.0


def shorten(duration: str) -> str:
    """Returns a duration of the rules as it is here."""
    return f"{max(1, int(duration[:-1]) * _SECONDS[duration[-1]] // FASTER)}s"


def short_rules() -> dict[str, Any]:
    """Returns the rules with windows and waits that are shorter."""
    rules: dict[str, Any] = YAML(typ="safe").load(FOLDER / "rules.yaml")
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["expr"] = shorten_windows(rule["expr"])
            if "for" in rule:
                rule["for"] = shorten(rule["for"])
    return rules


def shorten_windows(expr: str) -> str:
    """Returns a query with shorter windows, and what Grafana would put into it."""
    filled = expr.replace("$__rate_interval", "5m").replace("$dataset", ".*")
    return re.sub(r"\[(\d+[mhd])\]", lambda found: f"[{shorten(found[1])}]", filled)


@dataclass
class Watch:
    """What Prometheus knows, and what Alertmanager told."""

    url: str
    session: aiohttp.ClientSession
    firing: dict[str, dict[str, Any]] = field(default_factory=dict)
    "The alerts that fire, by name: the last one told."
    told: set[str] = field(default_factory=set)
    "Names of all alerts that ever fired."

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """Returns the samples of a query."""
        async with self.session.get(f"{self.url}/api/v1/query", params={"query": expr}) as reply:
            answer = await reply.json()
        assert answer["status"] == "success", (expr, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def is_scraping(self, count: int) -> bool:
        """Returns whether that many targets are up."""
        with contextlib.suppress(aiohttp.ClientError):
            return len(await self.query("up == 1")) == count
        return False

    async def fires(self, *names: str) -> None:
        """Waits until alerts fire, as the webhook is told."""
        await self._wait(lambda: set(names) - self.firing.keys())

    async def ends(self, *names: str) -> None:
        """Waits until they are resolved."""
        await self._wait(lambda: set(names) & self.firing.keys())

    async def _wait(self, missing: Callable[[], set[str]]) -> None:
        try:
            await until(lambda: not missing(), seconds=PATIENCE)
        except AssertionError:
            states = await self.query("ALERTS")
            known = {(one["metric"]["alertname"], one["metric"]["alertstate"]) for one in states}
            pytest.fail(f"still waiting for {sorted(missing())}; Prometheus has {sorted(known)}; told were {sorted(self.told)}")

    async def receive(self, request: web.Request) -> web.Response:
        """Takes what Alertmanager tells."""
        for alert in (await request.json())["alerts"]:
            name = alert["labels"]["alertname"].removeprefix("CacheSidecar")
            if alert["status"] == "firing":
                self.firing[name] = alert
                self.told.add(name)
            else:
                self.firing.pop(name, None)
        return web.Response()


@contextlib.asynccontextmanager
async def watching(
    programs: Path, processes: Processes, folder: Path, ports: Sequence[int], targets: Mapping[str, Sequence[str]]
) -> AsyncIterator[Watch]:
    """Runs both, on two of the ports, with the webhook on the third; `targets` are addresses by job."""
    prometheus, alertmanager, webhook = ports
    async with aiohttp.ClientSession() as session:
        watch = Watch(f"http://127.0.0.1:{prometheus}", session)
        app = web.Application()
        app.router.add_post("/alerts", watch.receive)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", webhook).start()
        _write(folder, alertmanager, webhook, targets)
        children = [
            processes.start("prometheus", _prometheus(programs, folder, prometheus), directory=folder),
            # Its templates are below the working directory, see build.py.
            processes.start("alertmanager", _alertmanager(programs, folder, alertmanager), directory=programs.parents[1]),
        ]
        try:
            await until(lambda: watch.is_scraping(sum(map(len, targets.values()))), seconds=PATIENCE)
            yield watch
        finally:
            await processes.stop(children)
            await runner.cleanup()
            shutil.rmtree(folder / "data", ignore_errors=True)


def _prometheus(programs: Path, folder: Path, port: int) -> list[str]:
    options = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    return [str(programs / PROMETHEUS), *options, f"--web.listen-address=127.0.0.1:{port}"]


def _alertmanager(programs: Path, folder: Path, port: int) -> list[str]:
    options = [
        f"--config.file={folder / 'alertmanager.yaml'}",
        f"--storage.path={folder / 'alerts'}",
        "--cluster.listen-address=",
    ]
    return [str(programs / ALERTMANAGER), *options, f"--web.listen-address=127.0.0.1:{port}"]


def _write(folder: Path, alertmanager: int, webhook: int, targets: Mapping[str, Sequence[str]]) -> None:
    # JSON is YAML, too.
    (folder / "rules.yaml").write_text(json.dumps(short_rules()))
    jobs = [{"job_name": job, "static_configs": [{"targets": list(addresses)}]} for job, addresses in targets.items()]
    prometheus = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": jobs,
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
    }
    (folder / "prometheus.yaml").write_text(json.dumps(prometheus))
    told = {"url": f"http://127.0.0.1:{webhook}/alerts", "send_resolved": True}
    route = {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    (folder / "alertmanager.yaml").write_text(
        json.dumps({"route": route, "receivers": [{"name": "test", "webhook_configs": [told]}]})
    )
