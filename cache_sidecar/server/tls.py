"""TLS on the TCP listener: the server certificate, and the authorities of client certificates.

The files are read again when they change, such as by cert-manager or the kubelet. New ones apply from the next handshake on;
existing connections are kept. Invalid files are ignored, and the previous ones stay in effect.
"""

import ssl
from collections.abc import Callable
from typing import NamedTuple, Self

from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.watched_files import WatchedFiles, read_file


class Pem(NamedTuple):
    """The contents of the files."""

    cert: bytes
    "The certificate, with its intermediates."
    key: bytes
    client_ca: bytes
    "The authorities of client certificates; empty if clients need none."


PemListener = Callable[[Pem], None]
"""Applies new files. Raises ValueError, without any change, if they are invalid."""


class Tls:
    """The TLS files of a listener."""

    def __init__(self, cert_file: str, key_file: str, client_ca_file: str = "") -> None:
        """Reads the files; with a file of authorities, clients need a certificate. Raises SettingsError."""
        self._files = [file for file in (cert_file, key_file, client_ca_file) if file]
        self._key = key_file
        self._watched = WatchedFiles(*self._files)
        self._followers: list[PemListener] = []
        self.pem = self._read()
        "The files in effect."

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Returns the TLS files of the settings; None without TLS. Raises SettingsError."""
        if not settings.listen_tls_cert:
            return None
        return cls(settings.listen_tls_cert, settings.listen_tls_key, settings.listen_tls_client_ca)

    def follow(self, listener: PemListener) -> None:
        """Calls `listener` with new files before they take effect."""
        self._followers.append(listener)

    def look(self) -> None:
        """Reads the files again if they have changed."""
        if not self._watched.have_changed():
            return
        try:
            pem = self._read()
            for listener in self._followers:
                listener(pem)
        except (SettingsError, ValueError) as error:
            telemetry.log.error("invalid TLS files ignored; the previous ones stay in effect", error=str(error))
            return
        self.pem = pem
        telemetry.log.info("TLS files loaded", files=self._files)

    def _read(self) -> Pem:
        found = self._bytes()
        _check(*self._files)
        if found != self._bytes():
            raise SettingsError("they were changed while they were read")  # they are read again at the next check
        return Pem(*found, *[b""] * (3 - len(found)))

    def _bytes(self) -> list[bytes]:
        try:
            return [read_file(file, is_secret=file == self._key) for file in self._files]
        except OSError as error:
            raise SettingsError(f"cannot read {error.filename}: {error.strerror}") from None


def _check(cert_file: str, key_file: str, client_ca_file: str = "") -> None:
    """Raises SettingsError for invalid files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, file in (("listen_tls_cert", cert_file), ("listen_tls_client_ca", client_ca_file)):
        try:
            if file:
                context.load_verify_locations(file)
        except (ssl.SSLError, OSError):
            raise SettingsError(f"{name}: {file} is not a PEM file with a certificate") from None
    try:
        # Without `password` OpenSSL would prompt for the passphrase of an encrypted key.
        context.load_cert_chain(cert_file, key_file, password="")
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"listen_tls_key: {key_file} is not the key of the certificate in {cert_file}") from None
        raise SettingsError(f"listen_tls_key: {key_file} is not a PEM file with an unencrypted private key") from None
