"""Values, settings and stubs of the Python client."""

import datetime as dt
import pickle
import socket
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
from cache_sidecar_client import Money, Options, Product, errors, models, values
from cache_sidecar_client._uuid7 import uuid7
from cache_sidecar_client.options import DEFAULT_ADDRESS, TokenFile
from cache_sidecar_client.v1 import product_pb2, session_pb2

from cache_sidecar.v1 import product_pb2 as of_server


@pytest.mark.parametrize(
    ("text", "units", "nanos"),
    [
        ("9.99 EUR", 9, 990_000_000),
        ("0.000000001 EUR", 0, 1),
        ("-1.5 EUR", -1, -500_000_000),
        ("10 EUR", 10, 0),
        ("9.990 EUR", 9, 990_000_000),
    ],
)
def test_money_is_exact_both_ways(text: str, units: int, nanos: int) -> None:
    message = values.money_message(text)
    assert (message.currency_code, message.units, message.nanos) == ("EUR", units, nanos)
    amount = Decimal(text.split(maxsplit=1)[0])
    assert values.money_of(message) == Money(amount, "EUR")


def test_money_has_a_text_that_money_reads() -> None:
    assert str(Money(Decimal("10.00"), "EUR")) == "10 EUR"
    assert str(Money(Decimal("1E+2"), "EUR")) == "100 EUR"
    assert Money.of("0.5 USD") == (Decimal("0.5"), "USD")


@pytest.mark.parametrize("text", ["9,99 EUR", "9.99", "EUR 9.99", "", "9.9.9 EUR"])
def test_what_is_no_amount_is_an_error_that_says_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"write it as '9\.99 EUR'"):
        values.money_message(text)


def test_an_amount_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="nine decimal places"):
        values.money_message(Money(Decimal("0.0000000001"), "EUR"))


def test_times_have_a_zone() -> None:
    time = dt.datetime(2026, 11, 30, 10, 0, 0, 250_000, tzinfo=dt.UTC)
    fields = values.timestamp_fields(time)
    assert fields["nanos"] == 250_000_000
    assert values.time_of(product_pb2.Product(create_time=fields).create_time) == time
    with pytest.raises(ValueError, match="no zone"):
        values.timestamp_fields(dt.datetime(2026, 11, 30))  # noqa: DTZ001


def test_durations_below_zero_are_as_protobuf_wants_them() -> None:
    assert values.duration_fields(-1.5) == {"seconds": -1, "nanos": -500_000_000}
    assert values.duration_fields(dt.timedelta(minutes=1)) == {"seconds": 60, "nanos": 0}


def test_an_enum_says_what_it_knows_and_shows_what_it_does_not() -> None:
    assert models.STATE.number("HELD") == 1
    assert models.STATE.name(99) == "99"
    with pytest.raises(ValueError, match="HELD, COMMITTED, RELEASED, EXPIRED"):
        models.STATE.number("SOLD")


def test_an_event_id_begins_with_its_time() -> None:
    made = uuid.UUID(uuid7(1_796_000_000_123))
    assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, 1_796_000_000_123)


def test_the_stubs_go_with_those_of_the_server_and_can_be_pickled() -> None:
    mine, theirs = product_pb2.Product(title="A"), of_server.Product(title="A")
    assert mine.SerializeToString() == theirs.SerializeToString()
    assert pickle.loads(pickle.dumps(mine)) == mine


def test_views_are_equal_if_their_messages_are_and_show_their_fields() -> None:
    made = Product.of("mug", title="A", price="9.99 EUR", categories=["x"])
    assert made == Product.of("mug", title="A", price="9.99 EUR", categories=["x"])
    assert made != Product.of("mug", title="B")
    assert "title='A'" in repr(made)
    assert (made.price, made.categories, made.create_time) == (Money(Decimal("9.99"), "EUR"), ("x",), None)


def test_a_session_does_not_show_its_id() -> None:
    assert "secret" not in repr(models.Session(session_pb2.Session(), session_id="secret"))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CACHE_SIDECAR_ADDRESS", "CACHE_SIDECAR_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("cache_sidecar_client.options.SOCKET", str(tmp_path / "default.sock"))


def test_the_address_is_what_the_injector_says_else_the_socket_else_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Options().target == DEFAULT_ADDRESS
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "default.sock"))
        assert Options().target == f"unix:{tmp_path}/default.sock"
    monkeypatch.setenv("CACHE_SIDECAR_SOCKET", "/run/other.sock")
    assert Options().target == "unix:/run/other.sock"
    monkeypatch.setenv("CACHE_SIDECAR_ADDRESS", "127.0.0.1:6000")
    assert Options().target == "127.0.0.1:6000"
    assert Options(address="127.0.0.1:7000").target == "127.0.0.1:7000"


def test_halves_of_a_client_certificate_are_refused() -> None:
    with pytest.raises(ValueError, match="set both, or neither"):
        Options(ca="ca.pem", cert="cert.pem")
    with pytest.raises(ValueError, match="set ca, too"):
        Options(cert="cert.pem", key="key.pem")


def test_a_token_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    now = [0.0]
    file = tmp_path / "token"
    file.write_text("# a comment\nfirst\n")
    token = TokenFile(str(file), lambda: now[0])
    assert token.metadata() == (("authorization", "Bearer first"),)
    file.write_text("shop app second\n")
    assert token.metadata() == (("authorization", "Bearer first"),), "it is looked at once a second"
    assert token.metadata(look=True) == (("authorization", "Bearer second"),), "and when the sidecar refuses it"
    file.write_text("another one\n")
    now[0] = 2.0
    assert token.metadata() == (("authorization", "Bearer one"),)
    file.unlink()
    now[0] = 4.0
    assert token.metadata() == (("authorization", "Bearer one"),), "the old one counts until there is another"


def test_a_file_that_has_no_token_any_more_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    token = TokenFile(str(file))
    for wrong in ("", "t\u00f6k", "a\x01b"):
        file.write_text(wrong)
        for _ in range(2):
            assert token.metadata(look=True) == (("authorization", "Bearer first"),)
    assert [record.getMessage() for record in caplog.records] == [
        f"token_file {str(file)!r} has no token, that from before stays in use: it is empty"
    ]
    file.write_text("second")
    assert token.metadata(look=True) == (("authorization", "Bearer second"),)
    file.unlink()
    token.metadata(look=True)
    assert len(caplog.records) == 2, "another time"


def test_a_file_without_a_token_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("# nothing\n")
    with pytest.raises(ValueError, match="has no token: it is empty"):
        TokenFile(str(tmp_path / "token"))
    (tmp_path / "token").write_text("t\u00f6k")
    with pytest.raises(ValueError, match="has no token: a token has only letters, digits and"):
        TokenFile(str(tmp_path / "token"))


def test_the_error_of_a_batch_is_that_of_a_single_read() -> None:
    error = errors.not_found("product", "mug")
    assert (error.id, error.reason, error.code.name) == ("mug", "NOT_FOUND", "NOT_FOUND")
