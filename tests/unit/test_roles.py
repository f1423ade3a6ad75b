"""Roles as they are written, which callers are local, and streams that are limited and ended apart from others."""

import asyncio
from pathlib import Path

import pytest

from cache_sidecar.config import roles
from cache_sidecar.config.roles import Role
from cache_sidecar.core.errors import Draining, Overloaded, SettingsError
from cache_sidecar.server.auth import Access, Caller
from cache_sidecar.server.layers import Stream, Streams
from tests.support import inside
from tests.support.tokens import secret_file, token


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("app", {Role.APP}),
        ("app,read", {Role.APP, Role.READ}),
        ("read+app", {Role.APP, Role.READ}),
        ("admin", {Role.ADMIN, Role.READ}),
        ("admin,read", {Role.ADMIN, Role.READ}),
    ],
)
def test_roles_are_joined_and_admin_includes_read(text: str, found: set[Role]) -> None:
    assert roles.parse(text) == found


@pytest.mark.parametrize("text", ["", "root", "app,", "app,,read", "APP", "app;read", "Zk3kVw0s"])
def test_what_is_no_role_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="the roles are app, read, admin") as caught:
        roles.parse(text)
    assert "Zk3" not in str(caught.value)


def test_entries_of_allowed_clients_have_roles_or_none() -> None:
    assert roles.parse_client("spiffe://shop/ops admin") == ("spiffe://shop/ops", {Role.ADMIN, Role.READ})
    assert roles.parse_client("cart.shop app+read") == ("cart.shop", {Role.APP, Role.READ})
    assert roles.parse_client("cart.shop") == ("cart.shop", None)
    for wrong in ("cart.shop app read", "cart.shop root"):
        with pytest.raises(ValueError, match=r"cart\.shop"):
            roles.parse_client(wrong)


@pytest.mark.parametrize(
    ("peer", "is_local"),
    [
        ("unix:", True),
        ("unix:4711", True),
        ("ipv4:127.0.0.1:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("ipv6:[::1]:4711", True),
        ("ipv6:[::ffff:127.0.0.1]:4711", True),
        ("ipv4:127.0.0.6:4711", False),
        ("ipv4:10.0.0.1:4711", False),
        ("ipv6:[::2]:4711", False),
        ("ipv6:[fe80::1%25eth0]:4711", False),
        ("ipv4:", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_local_callers_are_those_of_two_addresses_and_the_socket(peer: str, is_local: bool) -> None:
    assert Caller("", None, peer).is_local == is_local


def test_tokens_of_the_engine_are_those_with_the_role_and_all(tmp_path: Path) -> None:
    plain, one, two, three = map(token, ("plain", "one", "two", "three"))
    file = secret_file(tmp_path / "tokens", f"{plain}\ncart app {one}\nboard read {two}\nops app+admin {three}\n{plain}\n")
    given: list[tuple[list[bytes], ...]] = []
    Access(str(file)).follow_tokens(lambda *tokens: given.append(tokens))
    assert given == [([plain.encode(), one.encode(), three.encode()], [one.encode() for one in (plain, one, two, three)])]
    file.write_text(f"ops admin {one}\nother app {one}\n")
    with pytest.raises(SettingsError, match=r"line 2 of .* repeats the token"):
        Access(str(file))


def test_names_of_the_engine_are_those_with_the_role_and_all() -> None:
    given: list[tuple[list[str], ...]] = []
    Access().follow_clients(lambda *names: given.append(names))
    assert given == []
    Access(allowed_clients=["a", "b app", "c read", "d admin+app"]).follow_clients(lambda *names: given.append(names))
    Access(allowed_clients=["c read"]).follow_clients(lambda *names: given.append(names))
    assert given == [(["a", "b", "d"], ["a", "b", "c", "d"]), ([], ["c"])], "and nobody is not everybody"


async def test_streams_are_limited_by_role_and_connection() -> None:
    streams = Streams(3, each=2)
    opened = []

    def add(role: Role | None, peer: str) -> None:
        streams.admit(role, peer)
        opened.append(Stream(role, peer, lambda: None))
        streams.add(opened[-1])

    for peer in ("a", "a", "b"):
        add(None, peer)
    with pytest.raises(Overloaded, match=r"3 streams are open$"):
        streams.admit(None, "c")
    add(Role.APP, "a")
    add(Role.APP, "a")
    with pytest.raises(Overloaded, match="2 streams are open on this connection"):
        streams.admit(Role.APP, "a")
    add(Role.APP, "b")
    for _ in range(3):
        add(Role.READ, "unix:")
    for stream in opened:
        streams.discard(stream)
    assert not len(streams)
    assert not inside.by_connection_of(streams)
    streams.drain()
    with pytest.raises(Draining):
        streams.admit(Role.APP, "a")


async def test_a_stream_that_sends_is_not_cancelled_but_ends_when_it_has_sent() -> None:
    stream = Stream(Role.APP, "a", lambda: None)
    stream.check()
    stream.end(Draining())
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        stream.check()
