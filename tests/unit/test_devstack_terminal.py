"""What `cache-sidecar dev` prints."""

import ast
import io
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cache_sidecar.devstack import terminal
from cache_sidecar.devstack.catalogue import FIRST_PRODUCT_ID
from cache_sidecar.devstack.region import Region
from cache_sidecar.devstack.sidecars import Sidecar
from cache_sidecar.devstack.summary import Summary, display_path, show
from cache_sidecar.devstack.terminal import Steps
from tests.support import inside


class _Child:
    """As much of a process as the summary looks at."""

    pid = 4711

    def __init__(self, role: str) -> None:
        self.role = role


def _console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=100, highlight=False, color_system=None), out


def _shown(state: Path) -> str:
    console, out = _console(terminal=False)
    child: Any = _Child("sidecar-1")
    sidecar = Sidecar(child, "127.0.0.1:50055", state / "sidecar-1.sock", state / "sidecar-1.toml", "127.0.0.1:9465")
    relay: Any = _Child("relay")
    cluster: Any = SimpleNamespace(addresses=[f"127.0.0.1:{port}" for port in range(7000, 7006)])
    summary = Summary(
        regions=[Region(name="local", cluster=cluster, sidecars=[sidecar], relays=[relay])],
        engine="native (installed)",
        dsn="postgresql://x",
        logs=state / "logs",
        state=state,
        product_id=FIRST_PRODUCT_ID,
    )
    show(console, summary, seconds=3.21)
    return out.getvalue()


def test_the_summary_names_everything_that_runs(tmp_path: Path) -> None:
    text = _shown(tmp_path)
    for part in (
        "127.0.0.1:50055",
        "http://127.0.0.1:9465/",
        str(tmp_path / "sidecar-1.sock"),
        "pid 4711",
        "127.0.0.1:7005",
        "postgresql://x",
        "native (installed)",
        "3.2 s",
    ):
        assert part in text
    assert "Ctrl-C stops everything" in text


def test_the_python_call_is_python_in_one_shell_word(tmp_path: Path) -> None:
    text = _shown(tmp_path)
    command = text[text.index("# Read a product from Python") :].split("\n", 1)[1].split("\n\n# ")[0]
    program, flag, code = shlex.split(command)
    assert Path(program).samefile(sys.executable)
    assert flag == "-c"
    ast.parse(code)
    assert '"127.0.0.1:50055"' in code
    assert FIRST_PRODUCT_ID in code


def test_commands_are_on_one_line_however_long(tmp_path: Path) -> None:
    state = tmp_path / ("long " * 40)
    line = next(line for line in _shown(state).splitlines() if "import products" in line)
    assert shlex.split(line)[-1] == str(state / "sidecar-1.toml")


def test_paths_below_the_working_directory_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert display_path(tmp_path / ".dev" / "logs") == ".dev/logs"
    assert display_path(Path("/elsewhere")) == "/elsewhere"


def test_steps_without_a_terminal_are_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, inside.PLAIN_INTERVAL, 0.0)
    console, out = _console(terminal=False)
    with Steps(console) as steps:
        step = steps.begin("Catalogue")
        step.progress(5000, 100_000)
        step.finish("Catalogue: 100,000 products")
    first, second = out.getvalue().splitlines()
    assert first == "Catalogue: 5,000 of 100,000"
    assert second.startswith("Catalogue: 100,000 products (")


def test_plain_progress_does_not_flood() -> None:
    console, out = _console(terminal=False)
    with Steps(console) as steps:
        step = steps.begin("Catalogue")
        for done in range(100):
            step.progress(done, 100)
    assert out.getvalue() == ""


def test_a_terminal_shows_what_goes_on_and_what_came_of_it() -> None:
    console, out = _console(terminal=True)
    with Steps(console) as steps:
        counted, other = steps.begin("Catalogue"), steps.begin("Valkey")
        counted.progress(500, 1000)
        console.print("in between")
        counted.finish("Catalogue: done")
        other.finish("Valkey: done")
    text = out.getvalue()
    for part in ("in between", "✓ Catalogue: done", "✓ Valkey: done"):
        assert part in text


def test_a_terminal_without_unicode_gets_plain_lines() -> None:
    bytes_out = io.BytesIO()
    with io.TextIOWrapper(bytes_out, encoding="ascii") as out:
        with Steps(Console(file=out, force_terminal=True, color_system=None)) as steps:
            step = steps.begin("Catalogue")
            step.progress(500, 1000)
            step.finish("Catalogue: done")
        out.flush()
        assert bytes_out.getvalue().startswith(b"Catalogue: done (")


def test_a_terminal_shows_a_count() -> None:
    console, out = _console(terminal=True)
    with Steps(console) as steps:
        steps.begin("Catalogue").progress(500, 1000)
    assert f"Catalogue {'━' * 24} 500 of 1,000" in out.getvalue()
