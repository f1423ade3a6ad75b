"""Bearer tokens (RFC 6750): their syntax, and how many random bits they need."""

import hmac
import math
import re

MIN_BITS = 128
# RFC 6750, 2.1.
_SYNTAX = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_SCHEME = "bearer "
# Alphabets, smallest first, each with its size. Of Base32 and Base64 a few characters vary; that is less than a bit.
_ALPHABETS = [(re.compile(rb"[0-9]*"), 10), (re.compile(rb"[0-9a-f]*|[0-9A-F]*"), 16), (re.compile(rb"[^A-Z]*|[^a-z]*"), 32)]
_LARGEST = 64
_MIN_DISTINCT = 6
# Characters that are looked at.
_LONGEST = 512


def check_syntax(token: bytes) -> None:
    """Raises ValueError, with the end of a sentence about the token, if a header cannot hold it."""
    if not _SYNTAX.fullmatch(token):
        raise ValueError("must be a token: letters, digits and -._~+/ only")


def check_strength(token: bytes) -> None:
    """Raises ValueError, with the end of a sentence about the token, if it may be guessed."""
    if (bits := estimate_bits(token)) < MIN_BITS:
        raise ValueError(
            f"has a token of at most {bits} random bits: use {MIN_BITS} or more, as `openssl rand -base64 32` prints them"
        )


def estimate_bits(token: bytes) -> int:
    """Returns the most random bits that a token can have, by its length and the alphabet it seems to be written in.

    What is repeated counts once, and a few different characters count as none.
    """
    token = token[:_LONGEST].rstrip(b"=")
    if re.fullmatch(rb"[0-9A-Fa-f-]*", token):
        token = token.replace(b"-", b"")  # a UUID
    # Half of it at most: a random one may end with the letter that it begins with.
    period = next((size for size in range(1, len(token) // 2 + 1) if token[size:] == token[:-size]), len(token))
    if len(set(token)) < _MIN_DISTINCT:
        return 0
    size = next((size for alphabet, size in _ALPHABETS if alphabet.fullmatch(token)), _LARGEST)
    return math.floor(period * math.log2(size))


def token_of(authorization: str) -> bytes | None:
    """Returns the token in a value of `authorization`; None if it has another scheme."""
    if authorization[: len(_SCHEME)].lower() != _SCHEME:
        return None
    return authorization[len(_SCHEME) :].encode()


def is_same(one: bytes, other: bytes) -> bool:
    """Compares tokens, in a time that reveals nothing about their content."""
    return hmac.compare_digest(one, other)
