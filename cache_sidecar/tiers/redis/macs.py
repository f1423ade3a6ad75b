"""MACs, by which sidecars and relays recognise what they wrote to Redis themselves, whoever else can write there.

Keyed BLAKE2b (RFC 7693) of 16 bytes. It covers the name of the key in Redis, so that nothing counts in another place, and what
`codec.py` and `watermarks.py` say. Scripts in Redis have no key: what they change is not covered, and what they compare is
checked by whoever reads it. SECURITY.md says what that leaves open.
"""

import re
from hashlib import blake2b
from hmac import compare_digest
from typing import Self

from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.watched_files import WatchedFiles, read_file

# Bytes of a MAC.
SIZE = 16
_KEY = re.compile(rb"[!-~]{32,64}")
_MAX_KEYS, _MAX_FILE = 8, 4096


class Macs:
    """The keys of a file, which are read again when it changes: the first one signs, each of them is accepted."""

    def __init__(self, file: str, *, is_required: bool = True) -> None:
        """Unless `is_required`, what has no MAC is accepted; what has a wrong one never is. Raises SettingsError."""
        self.is_required = is_required
        self._file = file
        self._watched = WatchedFiles(file)
        self._hashes = _read(file)

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Returns the keys of the settings; None if there are none. Raises SettingsError."""
        file = settings.redis_mac_keys_file
        return cls(file, is_required=settings.redis_mac_required) if file else None

    def look(self) -> None:
        """Reads the keys again if their file has changed."""
        if not self._watched.have_changed():
            return
        try:
            self._hashes = _read(self._file)
        except SettingsError as error:
            telemetry.log.error("invalid MAC keys file ignored; the previous keys stay valid", error=str(error))
        else:
            telemetry.log.info("MAC keys loaded", file=self._file, count=len(self._hashes))

    def sign(self, key: str, data: bytes) -> bytes:
        """Returns the MAC of what a key in Redis is to hold."""
        return _digest(self._hashes[0], key, data)

    def is_valid(self, mac: bytes, key: str, data: bytes) -> bool:
        """Whether what a key in Redis holds is ours, given its MAC; an empty one if it has none."""
        if not mac:
            return not self.is_required
        return any(compare_digest(mac, _digest(keyed, key, data)) for keyed in self._hashes)


def _digest(keyed: "blake2b", key: str, data: bytes) -> bytes:
    name, hashed = key.encode(), keyed.copy()
    hashed.update(b"%d:%b%b" % (len(name), name, data))
    return hashed.digest()


def _read(file: str) -> "list[blake2b]":
    """Returns a hash for each key of a file. Raises SettingsError with one line, which never contains any of it."""
    try:
        content = read_file(file, _MAX_FILE + 1, is_secret=True)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    lines = [line.strip() for line in content.splitlines()]
    keys = list(dict.fromkeys(line for line in lines if line and not line.startswith(b"#")))
    if not keys or len(keys) > _MAX_KEYS or len(content) > _MAX_FILE or not all(map(_KEY.fullmatch, keys)):
        raise SettingsError(
            f"{file} must hold 1 to {_MAX_KEYS} keys, a line each of 32 to 64 visible characters: try `openssl rand -hex 32`"
        )
    return [blake2b(key=key, digest_size=SIZE, person=b"cache-sidecar") for key in keys]
