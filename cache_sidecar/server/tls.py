"""TLS on the TCP listener: the certificate it shows, and the authorities whose clients may connect.

The files are read again when they change, as cert-manager and the kubelet change them. New ones count from the next handshake
on, and connections go on; ones that cannot be used are refused, and those before stay.
"""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.watched_files import WatchedFiles


class Pem(NamedTuple):
    """What the files hold."""

    cert: bytes
    "The certificate, with those between it and its root."
    key: bytes
    client_ca: bytes
    "The authorities of clients' certificates; empty when clients need none."


Take = Callable[[Pem], None]
"""Puts something else in force; raises ValueError, and leaves what was, when it cannot use it."""


class Tls:
    """What an engine's `add_secure_port` takes."""

    def __init__(self, cert_file: str, key_file: str, client_ca_file: str = "") -> None:
        """Reads the files; with one of authorities, clients have to show a certificate. Raises SettingsError."""
        self._files = [file for file in (cert_file, key_file, client_ca_file) if file]
        self._watched = WatchedFiles(*self._files)
        self._followers: list[Take] = []
        self.pem = self._read()
        "What is in force."

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Returns what the settings ask for; None when they ask for none. Raises SettingsError."""
        if not settings.listen_tls_cert:
            return None
        return cls(settings.listen_tls_cert, settings.listen_tls_key, settings.listen_tls_client_ca)

    def follow(self, take: Take) -> None:
        """Gives somebody whatever is to be in force from now on."""
        self._followers.append(take)

    def look(self) -> None:
        """Reads the files again if they have changed."""
        if not self._watched.have_changed():
            return
        try:
            pem = self._read()
            for take in self._followers:
                take(pem)
        except (SettingsError, ValueError) as error:
            telemetry.log.error("invalid TLS files ignored; the previous ones stay in effect", error=str(error))
            return
        self.pem = pem
        telemetry.log.info("TLS files loaded", files=self._files)

    def _read(self) -> Pem:
        found = _bytes(self._files)
        _check(*self._files)
        if found != _bytes(self._files):
            raise SettingsError("they were changed while they were read")  # and are read again when that is over
        return Pem(*found, *[b""] * (3 - len(found)))


def _bytes(files: list[str]) -> list[bytes]:
    try:
        return [Path(file).read_bytes() for file in files]
    except OSError as error:
        raise SettingsError(f"cannot read {error.filename}: {error.strerror}") from None


def _check(cert_file: str, key_file: str, client_ca_file: str = "") -> None:
    """Raises SettingsError when they are not what they should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, file in (("listen_tls_cert", cert_file), ("listen_tls_client_ca", client_ca_file)):
        try:
            if file:
                context.load_verify_locations(file)
        except (ssl.SSLError, OSError):
            raise SettingsError(f"{name}: {file} holds no certificate in PEM") from None
    try:
        # A key with a passphrase would ask for it on a terminal.
        context.load_cert_chain(cert_file, key_file, password="")
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"listen_tls_key: {key_file} is not the key of the certificate in {cert_file}") from None
        raise SettingsError(f"listen_tls_key: {key_file} holds no private key in PEM without a passphrase") from None
