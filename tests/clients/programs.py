"""The programs that run the conformance suite, for each library and for stubs: what they are called with, or why they cannot run."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients import builds, go_builds, stub_builds
from tests.interop.build import NODE
from tests.interop.running import got

PROJECT = Path(__file__).parents[2]


class Program(NamedTuple):
    """A library's program."""

    name: str
    command: Callable[[], list[str]]
    "Returns the command; skips the test if it cannot run here."

    def __str__(self) -> str:
        return self.name


def _python(style: str) -> Program:
    return Program(f"python-{style}", lambda: [sys.executable, str(PROJECT / "tests/clients/python/conformance.py"), style])


def _go() -> list[str]:
    return [str(got(go_builds.GO) / "conformance")]


def _typescript() -> list[str]:
    return ["node", str(got(builds.TYPESCRIPT) / "build/conformance/main.js")]


def _java() -> list[str]:
    return builds.java_command(got(builds.JAVA), "io.cachesidecar.client.conformance.Main")


PROGRAMS = [
    _python("asyncio"),
    _python("sync"),
    Program("go", _go),
    Program("typescript", _typescript),
    Program("java", _java),
]


def params() -> list[object]:
    """Returns them as parameters of a test."""
    return [pytest.param(program, id=program.name) for program in PROGRAMS]


class Stubs(NamedTuple):
    """The stubs of a language, and a program that makes calls with them."""

    name: str
    command: Callable[[], list[str]]
    "Returns the command; skips the test if it cannot run here."
    objects: bool = False
    "Whether durations and masks are objects in the JSON of these stubs, which is then not quite that of protobuf."

    def __str__(self) -> str:
        return self.name


def _node(script: str, folder: Path) -> list[str]:
    return ["env", f"NODE_PATH={got(NODE) / 'node_modules'}", "node", str(stub_builds.PROGRAMS / script), str(folder)]


def ruby(*arguments: str) -> list[str]:
    """Returns a command of Ruby; skips the test if it cannot run here."""
    got(stub_builds.RUBY)
    return ["env", *(f"{name}={value}" for name, value in stub_builds.ruby_environment().items()), "ruby", *arguments]


STUBS = [
    Stubs("proto-loader", lambda: _node("proto_loader.js", stub_builds.PROTOS), objects=True),
    Stubs("ts-proto", lambda: _node("ts_proto.js", got(stub_builds.TS_PROTO) / "js"), objects=True),
    Stubs("ruby", lambda: ruby(str(stub_builds.PROGRAMS / "stubs.rb"), str(got(stub_builds.RUBY) / "gen"))),
    Stubs("rust", lambda: [str(got(stub_builds.RUST) / "conformance")]),
]
