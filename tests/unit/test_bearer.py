"""How many random bits a token can have."""

import base64
from random import Random
from uuid import UUID

import pytest

from cache_sidecar.server import bearer


@pytest.mark.parametrize(
    ("token", "bits"),
    [
        ("", 0),
        ("a" * 100, 0),
        ("abcde" * 100, 0),
        ("s3cret", 30),
        ("hunter2hunter2hunter2hunter2hunter2", 35),
        ("change-me-change-me-change-me-ch", 50),
        ("0123456789" * 10, 33),
        ("3141592653589793238462643383279502884197", 132),
        ("9f86d081884c7d659a2feaa0c55ad01", 124),
        ("9f86d081884c7d659a2feaa0c55ad015", 128),
        ("9F86D081884C7D659A2FEAA0C55AD015", 128),
        ("9f86d081-884c-7d65-9a2f-eaa0c55ad015", 128),
        ("mfrggzdfmztwq2lknnwg23tpoa", 130),
        ("Zk3kVw0sQ7tTn2pL9xYbA", 126),
        ("Zk3kVw0sQ7tTn2pL9xYbAc==", 132),
    ],
)
def test_length_and_alphabet_bound_the_bits(token: str, bits: int) -> None:
    assert bearer.estimate_bits(token.encode()) == bits


def test_random_tokens_of_128_bits_are_strong() -> None:
    # Always the same ones: of 50,000 in Base64, one has no capitals, and passes for one in Base32, which is too short.
    source = Random(1)
    for _ in range(1000):
        random = source.randbytes(16)
        for token in (
            base64.b64encode(random),
            base64.b64encode(random).rstrip(b"="),
            base64.urlsafe_b64encode(random),
            base64.b32encode(random),
            random.hex().encode(),
            random.hex().upper().encode(),
            str(UUID(bytes=random, version=4)).encode(),
            base64.urlsafe_b64encode(source.randbytes(32)).rstrip(b"="),
        ):
            bearer.check_syntax(token)
            bearer.check_strength(token)


def test_what_is_weak_is_not_repeated() -> None:
    with pytest.raises(
        ValueError, match=r"^has a token of at most 60 random bits: use 128 or more, as `openssl rand"
    ) as caught:
        bearer.check_strength(b"s3cret-token")
    assert "s3cret" not in str(caught.value)


def test_a_long_token_takes_no_time_to_speak_of() -> None:
    assert bearer.estimate_bits(b"ab" * 1_000_000) == 0
