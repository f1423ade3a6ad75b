"""Every library runs the same cases against real sidecars: on each engine, by TCP, by a Unix socket, and with mutual TLS.

Stubs without a library run those that read.
"""

import asyncio
import json
import os
from typing import Any
from uuid import uuid4

import pytest

from tests.clients.conftest import Place
from tests.clients.expectations import problems
from tests.clients.faults import METHODS
from tests.clients.programs import PROJECT, STUBS, Program, Stubs, params
from tests.clients.raw_stubs import CALLS, Caller, is_for_stubs, is_read, run_case, steps_of

CASES = PROJECT / "clients/conformance/cases.json"
_SECONDS = 600.0
"For all cases of a program: half a minute on two cores."
pytestmark = pytest.mark.timeout(_SECONDS + 30)


def cases() -> list[dict[str, Any]]:
    return json.loads(CASES.read_text())["cases"]


def environment(place: Place) -> dict[str, str]:
    """Returns the variables of a program: only what the test decides, since the machine's own sidecar must not answer."""
    mine = ("CACHE_SIDECAR_", "CONFORMANCE_")
    return {key: value for key, value in os.environ.items() if not key.startswith(mine)} | place.environment


@pytest.mark.parametrize("program", params())
@pytest.mark.parametrize("transport", ["tcp", "unix", "tls"])
async def test_a_library_passes_every_case(program: Program, transport: str, places: dict[str, Place]) -> None:
    run = f"{program.name}-{transport}-{uuid4().hex[:6]}"
    only = os.environ.get("CONFORMANCE_ONLY", "")
    more = {"CONFORMANCE_CASES": str(CASES), "CONFORMANCE_RUN": run, "CONFORMANCE_ONLY": only}
    process = await asyncio.create_subprocess_exec(
        *program.command(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(places[transport]) | more,
    )
    try:
        said, errors = await asyncio.wait_for(process.communicate(), _SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()[-2000:]
    lines = {line["name"]: line for line in map(json.loads, said.decode().splitlines())}
    expected = [case for case in cases() if only in case["name"]]
    found = [
        f"{case['name']}: {problem}"
        for case in expected
        if case["name"] in lines
        for problem in problems(case, lines[case["name"]], run)
    ]
    found += [f"{case['name']}: the program did not report it" for case in expected if case["name"] not in lines]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("stubs", STUBS, ids=str)
@pytest.mark.parametrize("transport", ["tcp", "unix", "tls"])
async def test_stubs_pass_every_case_that_reads(stubs: Stubs, transport: str, places: dict[str, Place]) -> None:
    only = os.environ.get("CONFORMANCE_ONLY", "")
    run = f"{stubs.name}-{transport}-{uuid4().hex[:6]}"
    found = []
    async with Caller.of(stubs.command(), environment(places[transport]), stubs.objects) as caller:
        for case in cases():
            if is_for_stubs(case) and only in case["name"]:
                line = {"ok": True, "got": await run_case(caller, case, run)}
                found += [f"{case['name']}: {problem}" for problem in problems(case, line, run)]
    assert not found, "\n".join(found)


def test_each_method_that_reads_is_in_a_case_for_stubs_and_none_needs_a_library() -> None:
    chosen = [case for case in cases() if is_for_stubs(case)]
    called = {CALLS[step["call"]].full_name for case in chosen for step in steps_of(case["steps"])}
    # No library has these, so no case calls them.
    without = {"cache_sidecar.v1.ProductService.SearchProducts"}
    without |= {
        f"cache_sidecar.v1.StorefrontService.Get{page}Page" for page in ("Home", "Category", "Product", "Cart", "Checkout")
    }
    assert {method.full_name for method in METHODS.values() if is_read(method)} - called == without
    names = {case["name"].partition(":")[0] for case in cases()} - {case["name"].partition(":")[0] for case in chosen}
    # What libraries do, and what only writes.
    assert names == {"ready", "optimistic updates", "joined", "events", "retries", "deadlines", "fallback", "streams"}


def test_there_are_enough_cases_and_each_has_a_name_of_its_own() -> None:
    names = [case["name"] for case in cases()]
    assert len(set(names)) == len(names) >= 80


def test_every_call_of_the_readme_is_in_a_case() -> None:
    used: set[str] = set()

    def collect(steps: list[dict[str, Any]]) -> None:
        for step in steps:
            used.add(step["call"])
            collect(step.get("during", []))

    for case in cases():
        collect(case["steps"])
    table = (PROJECT / "clients/conformance/README.md").read_text().partition("### Calls")[2].partition("### Watches")[0]
    named: set[str] = set()
    for line in table.splitlines():
        noun = ""
        for name in line.partition("|")[2].partition("|")[0].replace("`", "").split(","):
            noun = name.strip().partition(".")[0] or noun
            if "." in name and "call" not in name:
                named.add(f"{noun}.{name.strip().partition('.')[2]}")
    named.discard("faults.clear")  # with which each of their cases begins
    assert named <= used, named - used
