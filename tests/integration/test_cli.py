"""The command line: what it prints, and the codes it exits with."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cache_sidecar import __version__
from cache_sidecar.devstack.postgres import Postgres

GOOD = {"CACHE_SIDECAR_REDIS_NODES": "127.0.0.1:1", "CACHE_SIDECAR_POSTGRES_CATALOG": "postgresql://nobody@127.0.0.1:1/none"}


async def run(*arguments: str, **variables: str) -> tuple[int | None, str, str]:
    """Runs a command; returns its exit code and what it printed to either stream."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CACHE_SIDECAR_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cache_sidecar",
        *arguments,
        env=kept | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_the_version() -> None:
    assert await run("--version") == (0, f"cache-sidecar {__version__}\n", "")


@pytest.mark.parametrize("command", ["serve", "relay", "migrate", "verify", "user", "analytics", "config", "dev", "import"])
async def test_every_command_explains_itself(command: str) -> None:
    code, out, err = await run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: cache-sidecar {command}")


async def test_help_lists_every_command() -> None:
    code, out, err = await run("-h")
    assert (code, err) == (0, "")
    assert {"serve", "relay", "migrate", "verify", "user", "config", "dev", "import"} <= {
        line.split()[0] for line in out.splitlines() if line
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["--nothing"],
        ["serve", "--nothing"],
        ["serve", "--config"],
        ["dev", "--sidecars", "0"],
        ["dev", "--products", "x"],
        ["serve", "--engine", "fast"],
    ],
)
async def test_a_wrong_use_is_one_line_and_exit_code_64(arguments: list[str]) -> None:
    code, out, err = await run(*arguments)
    assert (code, out) == (64, "")
    assert err.startswith("cache-sidecar: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "relay", "migrate"])
async def test_a_missing_setting_is_named_with_what_would_be_right(command: str) -> None:
    without = {"CACHE_SIDECAR_REDIS_NODES": "127.0.0.1:1"}
    code, out, err = await run(command, **without)
    assert (code, out) == (64, "")
    assert err.count("\n") == 1
    assert "postgres_catalog is not set: set CACHE_SIDECAR_POSTGRES_CATALOG" in err
    assert "postgresql://user:password@host:port/database" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read the settings file"),
        ("redis_nodes = ", "is not TOML"),
        ("\x00", "is not TOML"),
        ("redis_nods = ''", "did you mean 'redis_nodes'?"),
        ("[product]\nx = 1", "there is no setting 'product'"),
    ],
)
async def test_a_settings_file_that_cannot_be_used_is_named(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "settings.toml"
    if text is not None:
        file.write_text(text)
    code, _, err = await run("config", "--config", str(file), **GOOD)
    assert code == 64
    assert err.count("\n") == 1
    assert str(file) in err
    assert said in err
    assert await run("config", CACHE_SIDECAR_CONFIG=str(file), **GOOD) == (64, "", err)


async def test_config_shows_every_setting_where_it_comes_from_and_no_password(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('namespace = "mine"\nredis_password = "very secret"\nlog_level = "debug"\n')
    code, out, err = await run("config", "--config", str(file), CACHE_SIDECAR_LOG_LEVEL="error", **GOOD)
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line and not line.startswith(" ")}
    assert "mine" in lines["namespace"]
    assert str(file) in lines["namespace"]
    assert "error" in lines["log_level"]
    assert "CACHE_SIDECAR_LOG_LEVEL" in lines["log_level"], "the variable wins over the file"
    assert "default" in lines["max_streams"]
    assert "very secret" not in out
    assert "nobody" not in out
    assert " Here: " in out[out.index("\nengine ") :].splitlines()[2], "which engine runs, and why"


async def test_migrate_brings_an_empty_database_up_to_date_once(postgres: Postgres) -> None:
    name = sql.Identifier("test_cli_migrate")
    async with await psycopg.AsyncConnection.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        await connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        variables = {"CACHE_SIDECAR_POSTGRES_CATALOG": postgres.dsn("test_cli_migrate")}
        code, out, err = await run("migrate", **GOOD | variables)
        assert (code, err) == (0, "")
        assert "applied 0001" in out
        assert out.endswith("The databases are up to date.\n")
        assert await run("migrate", **GOOD | variables) == (0, "The databases are up to date.\n", "")
        await connection.execute(sql.SQL("DROP DATABASE {}").format(name))


async def test_an_unreachable_database_is_exit_code_69(tmp_path: Path) -> None:
    code, out, err = await run("migrate", **GOOD)
    assert (code, out) == (69, "")
    assert err.startswith("cache-sidecar: PostgreSQL (")
    assert err.count("\n") == 1


async def test_what_postgresql_says_in_several_lines_is_one() -> None:
    code, out, err = await run("user", "export", "ann", CACHE_SIDECAR_POSTGRES_CATALOG="postgresql://u@127.0.0.1:1/shop")
    assert (code, out) == (69, "")
    (line,) = [line for line in err.splitlines() if not line.startswith("{")]
    assert line.startswith('cache-sidecar: PostgreSQL: connection failed: connection to server at "127.0.0.1", port 1 failed')


async def shell(command: str) -> tuple[int | None, str]:
    """Runs a shell's command, in which $CLI is the command line; returns its exit code and what it printed to stderr."""
    cli = f"{sys.executable} -m cache_sidecar"
    process = await asyncio.create_subprocess_shell(
        command, env=os.environ | GOOD | {"CLI": cli}, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, err.decode()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams_are_no_connections(closed: str) -> None:
    """Their numbers would be those of the next files: uvloop aborts when it closes one, and messages would go into others."""
    code, _ = await shell(f"exec $CLI migrate {closed}")
    assert code == 69


async def test_ctrl_c_during_the_start_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent may ignore it\n"
        "class Interrupt:\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'cache_sidecar.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt)\n"
    )
    code, _, err = await run("config", PYTHONPATH=str(tmp_path))
    assert (code, err) == (-signal.SIGINT, "")
