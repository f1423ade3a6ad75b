"""Choosing ports."""

import socket

import pytest

from cache_sidecar.devstack.ports import LAST_PORT, free_ports, is_free
from cache_sidecar.errors import InputError


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


def test_taken_ports_are_passed_over_and_none_is_chosen_twice() -> None:
    with _listen() as listener:
        port = listener.getsockname()[1]
        chosen = free_ports([port, port, port + 1])
    assert port not in chosen
    assert chosen == sorted(set(chosen))
    assert chosen[0] > port


def test_the_port_beside_has_to_be_free_too() -> None:
    with _listen() as listener:
        taken = listener.getsockname()[1]
        (port,) = free_ports([taken - 5000], beside=5000)
    assert port > taken - 5000


def test_ports_promised_to_others_are_passed_over() -> None:
    first, last = free_ports([20_000, 20_000], beside=1)
    assert last not in (first, first + 1)
    (port,) = free_ports([first], promised=[first, first + 1])
    assert port > first + 1


def test_wish_zero_is_any_port() -> None:
    first, second = free_ports([0, 0])
    assert 0 < first <= LAST_PORT
    assert 0 < second <= LAST_PORT


def test_no_free_port_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^no free port from 60000 to 55535 on 127\.0\.0\.1$"):
        free_ports([60_000], beside=10_000)
