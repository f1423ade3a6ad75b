"""Choosing ports."""

import socket
from collections.abc import Iterator

import pytest

from cache_sidecar.core.errors import InputError
from cache_sidecar.devstack.ports import LAST_PORT, Ports, is_free


@pytest.fixture
def ports() -> Iterator[Ports]:
    ports = Ports()
    yield ports
    ports.close()


def _listen() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_port_is_free_until_somebody_listens_and_after_he_left() -> None:
    with _listen() as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0]:
            assert not is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", port)


def test_a_listener_on_all_addresses_takes_the_port() -> None:
    with socket.create_server(("", 0)) as listener:
        assert not is_free("127.0.0.1", listener.getsockname()[1])


def test_taken_ports_are_passed_over_and_none_is_chosen_twice(ports: Ports) -> None:
    with _listen() as listener:
        port = listener.getsockname()[1]
        chosen = ports.choose([port, port, port + 1]) + ports.choose([port])
    assert port not in chosen
    assert chosen == sorted(set(chosen))
    assert chosen[0] > port


def test_the_port_beside_has_to_be_free_too(ports: Ports) -> None:
    with _listen() as listener:
        taken = listener.getsockname()[1]
        (port,) = ports.choose([taken - 5000], companion_offset=5000)
    assert port > taken - 5000


def test_the_port_beside_is_kept_too(ports: Ports) -> None:
    (port,) = ports.choose([20_000], companion_offset=1)
    assert ports.choose([port + 1]) > [port + 1]


def test_two_stacks_that_start_at_once_choose_different_ports(ports: Ports) -> None:
    (port,) = ports.choose([0])
    other = Ports()
    assert other.choose([port]) > [port]
    other.close()
    ports.close()
    assert other.choose([port]) == [port]
    other.close()


def test_a_port_that_was_not_chosen_is_not_kept(ports: Ports) -> None:
    with _listen() as listener:
        taken = listener.getsockname()[1]
        (port,) = ports.choose([taken - 5000], companion_offset=5000)
        assert port > taken - 5000
        # Its first half was free, and still is.
        assert ports.choose([taken - 5000]) == [taken - 5000]


def test_wish_zero_is_any_port(ports: Ports) -> None:
    first, second = ports.choose([0, 0])
    assert 0 < first <= LAST_PORT
    assert 0 < second <= LAST_PORT


def test_a_kept_port_can_be_listened_on(ports: Ports) -> None:
    (port,) = ports.choose([0])
    socket.create_server(("127.0.0.1", port)).close()


def test_no_free_port_is_one_line(ports: Ports) -> None:
    with pytest.raises(InputError, match=r"^no free port from 60000 to 55535 on 127\.0\.0\.1$"):
        ports.choose([60_000], companion_offset=10_000)
