"""The commands for people on call, against a running sidecar."""

import asyncio
import contextlib
import json
import os
import pty
import sys
import termios
from pathlib import Path

import grpc
import pytest

from cache_sidecar import __version__
from cache_sidecar.core import telemetry
from tests.integration.test_cli import run as command
from tests.support.authority import Authority, listen
from tests.support.shop import Open, Shop
from tests.support.tokens import secret_file, token
from tests.support.until import DEADLINE


async def test_the_status_of_a_sidecar_that_is_well(shop: Shop, engine: str) -> None:
    await shop.get((await shop.create()).product_id)
    code, out, err = await command("status", "--address", shop.address)
    assert (code, err) == (0, "")
    first, version, invalidations, relay, memory, _, *rows = out.splitlines()
    assert first == "serving, all well"
    assert f"{__version__}, engine {engine}, up " in version
    assert "256 of 256 partitions fresh" in invalidations
    assert "catalog" in relay
    assert " MB" in memory
    assert [row.split()[0] for row in rows[:2]] == ["dataset", "cart"]
    code, out, err = await command("status", "--json", "--address", shop.address)
    found = json.loads(out)
    assert (code, found["serving"], found["problems"]) == (0, True, [])
    assert found["datasets"]["product"]["hit_ratio"] is not None


async def test_the_status_of_a_sidecar_without_redis(open_shop: Open) -> None:
    async with open_shop(redis="127.0.0.1:1", trusted=False) as shop:
        code, out, _ = await command("status", "--address", shop.address)
        assert code == 1
        assert out.startswith("serving, ")
        assert "\nFAILS  redis" in out or "\nFAILS  invalidations" in out
        assert "0 of 256 partitions fresh" in out


async def test_a_sidecar_that_cannot_be_reached_is_one_line() -> None:
    code, out, err = await command("status", "--address", "127.0.0.1:1")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("cache-sidecar: the sidecar at 127.0.0.1:1 does not answer")
    code, _, err = await command("explain", "product", "a", "--address", "127.0.0.1:1")
    assert (code, len(err.splitlines())) == (69, 1)


async def test_a_key_is_explained_read_and_dropped(shops: tuple[Shop, Shop]) -> None:
    shop, other = shops
    id = (await other.create()).product_id
    to = ("--address", shop.address)
    code, out, err = await command("explain", "product", id, *to)
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["key", "tier", "state"],
        [id, "l1", "absent"],
        [id, "l2", "value"],
        [id, "store", "value"],
    ]
    code, out, _ = await command("get", id, *to)
    assert (code, json.loads(out)["cache"]["source"]) == (0, "SOURCE_L2")
    code, out, _ = await command("explain", "product", id, "--json", *to)
    assert [row["state"] for row in json.loads(out)["tiers"]] == ["KEY_STATE_VALUE"] * 3
    assert await command("invalidate", "product", id, *to) == (0, "product: dropped 1 IDs\n", "")
    assert not shop.remembers(id)
    code, out, _ = await command("get", id, "--bypass", *to)
    assert json.loads(out)["cache"]["source"] == "SOURCE_STORE"
    code, _, err = await command("get", "none", *to)
    assert (code, err) == (1, "cache-sidecar: NOT_FOUND: there is no product 'none'\n")
    code, _, err = await command("invalidate", "product", *to)
    assert (code, err.startswith("cache-sidecar: name IDs to drop")) == (64, True)


async def test_the_policy_is_shown_and_changed(open_shop: Open) -> None:
    async with open_shop() as shop:
        to = ("--address", shop.address)
        code, out, err = await command("policy", "product.l2_ttl=60", "product.rollout=50", *to)
        assert (code, err) == (0, "")
        values = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "." in line}
        assert values["product.l2_ttl"] == ["60", "override"] or "must" in out
        assert values["product.rollout"] == ["50", "override"]
        code, out, _ = await command("policy", "--reset", "product.rollout", *to)
        assert "product.rollout" in out
        code, out, _ = await command("policy", "--dataset", "product", *to)
        values = {line.split()[0]: line.split()[1:] for line in out.splitlines() if "." in line}
        assert values["product.rollout"] == ["100", "built-in"]
        for change, problem in (
            ("product.rollout=many", "rollout must be a number"),
            ("product.shadow=1", "shadow must be true or false"),
            ("rollout=1", "'rollout' must be DATASET.KEY"),
            ("product.rollout", "'product.rollout' must be DATASET.KEY=VALUE"),
        ):
            code, _, err = await command("policy", change, *to)
            assert (code, problem in err, len(err.splitlines())) == (64, True, 1), err
        code, _, err = await command("policy", "product.rollout=101", *to)
        assert (code, err.startswith("cache-sidecar: INVALID_ARGUMENT")) == (1, True)


async def test_the_level_of_the_log_is_shown_and_changed_for_a_while(open_shop: Open) -> None:
    async with open_shop() as shop:
        to = ("--address", shop.address)
        assert await command("log-level", *to) == (0, "info, by the setting log_level\n", "")
        code, out, err = await command("log-level", "debug", "--for", "600", *to)
        assert (code, err, out.startswith("debug until 20"), out.endswith("then info again\n")) == (0, "", True, True)
        assert (await command("log-level", *to))[1] == out
        assert telemetry.own_level.shows_debug
        assert await command("log-level", "reset", *to) == (0, "info, by the setting log_level\n", "")
        assert not telemetry.own_level.shows_debug
        for wrong in (["loud"], ["debug", "--for", "nan"], ["--for", "60"], ["reset", "--for", "60"]):
            code, _, err = await command("log-level", *wrong, *to)
            assert (code, len(err.splitlines())) == (64, 1), err


async def test_a_token_of_the_role_is_sent_over_the_socket(open_shop: Open, tmp_path: Path) -> None:
    reader, admin = token("reader"), token("admin")
    file = secret_file(tmp_path / "tokens", f"board read {reader}\nops admin {admin}\n")
    async with open_shop(access_tokens_file=str(file), listen_socket=f"{tmp_path}/s", trusted=False):
        to = ("--address", f"unix:{tmp_path}/s")
        code, _, err = await command("status", *to)
        assert (code, err.startswith("cache-sidecar: UNAUTHENTICATED")) == (1, True)
        code, _, err = await command("invalidate", "product", "a", "--token-file", str(file), *to)
        assert (code, err) == (0, "")
        only = tmp_path / "reader"
        only.write_text(f"{reader}\n")
        code, _, err = await command("invalidate", "product", "a", "--token-file", str(only), *to)
        assert (code, "needs the role admin" in err) == (1, True)


@pytest.mark.parametrize("option", ["--ca", "--token-file"])
async def test_a_file_that_cannot_be_read_is_one_line(option: str) -> None:
    code, _, err = await command("status", option, "/none")
    assert (code, err) == (64, "cache-sidecar: cannot read /none: No such file or directory\n")


async def test_top_prints_lines_where_there_is_no_terminal(shop: Shop) -> None:
    code, out, err = await command("top", "--count", "2", "--interval", "0.1", "--address", shop.address)
    assert (code, err) == (0, "")
    first, second = out.strip().split("\n\n")
    for look in (first, second):
        assert "serving, all well" in look.splitlines()[0]
        assert {"product", "session", "cart"} <= {line.split()[0] for line in look.splitlines()}
    assert "\x1b" not in out
    code, _, err = await command("top", "--address", "127.0.0.1:1")
    assert (code, len(err.splitlines())) == (69, 1)


async def test_top_redraws_a_terminal_and_q_ends_it(shop: Shop) -> None:
    ours, theirs = pty.openpty()
    settings = termios.tcgetattr(theirs)
    program = [sys.executable, "-m", "cache_sidecar", "top", "--interval", "0.1", "--address", shop.address]
    process = await asyncio.create_subprocess_exec(
        *program, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    )
    loop, shown, redrawn = asyncio.get_running_loop(), bytearray(), asyncio.Event()

    def on_output() -> None:
        shown.extend(os.read(ours, 65536))
        if shown.count(b"all well") >= 2:
            redrawn.set()

    loop.add_reader(ours, on_output)
    try:
        await asyncio.wait_for(redrawn.wait(), DEADLINE)
        os.write(ours, b"q")
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
        assert b"\x1b[?25l" in shown
        assert termios.tcgetattr(theirs) == settings
    finally:
        loop.remove_reader(ours)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        os.close(theirs)
        os.close(ours)


@pytest.mark.parametrize(
    ("shell", "line"), [("bash", "complete -o nosort"), ("zsh", "#compdef"), ("fish", "complete --no-files")]
)
async def test_the_completion_of_a_shell_knows_the_commands(shell: str, line: str) -> None:
    code, out, err = await command("completion", shell)
    assert (code, err, line in out) == (0, "", True)
    instruction = {"_CACHE_SIDECAR_COMPLETE": f"{shell}_complete", "COMP_WORDS": "cache-sidecar stat", "COMP_CWORD": "1"}
    if shell == "fish":
        instruction["COMP_CWORD"] = "stat"
    code, out, _ = await command(**instruction)
    assert (code, "status" in out) == (0, True)


async def test_a_client_certificate_is_sent_over_tls(open_shop: Open, tmp_path: Path) -> None:
    authority = Authority()
    pair, trusted = authority.client("cart.shop"), authority.cert
    files = {"ca": trusted, "cert": pair.cert, "key": pair.key}
    for name, pem in files.items():
        (tmp_path / name).write_bytes(pem)
    credentials = grpc.ssl_channel_credentials(trusted, pair.key, pair.cert)
    settings = listen(tmp_path, authority.server(), trusted)
    async with open_shop(credentials=credentials, trusted=False, **settings) as shop:
        port = shop.address.rpartition(":")[2]
        to = ["--address", f"127.0.0.1:{port}", "--server-name", "localhost", "--ca", f"{tmp_path}/ca"]
        client = ["--cert", f"{tmp_path}/cert", "--key", f"{tmp_path}/key"]
        code, out, err = await command("policy", "--dataset", "product", *to, *client)
        assert (code, err, "product.rollout" in out) == (0, "", True)
        code, _, err = await command("policy", *to)
        assert (code, len(err.splitlines())) == (69, 1), err
    code, _, err = await command("status", "--cert", f"{tmp_path}/cert")
    assert (code, err) == (64, "cache-sidecar: --cert and --key must be used together, and with --ca\n")
