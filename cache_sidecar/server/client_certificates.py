"""Whether the certificates of clients are still valid: not expired, and not revoked.

TLS verifies a certificate once, in the handshake. A connection may outlive it, so it is checked for every call, hits of the
native engine included (`native/src/peer.rs`), and for streams when a certificate expires or the revocation lists change.
"""

import datetime as dt
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cryptography import x509

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependency
from cache_sidecar.core.errors import InvalidCertificate, SettingsError
from cache_sidecar.core.watched_files import WatchedFiles
from cache_sidecar.server.revocations import Revocations

# Certificates whose content is remembered, so that they are not parsed for every call; a client has one or two.
MAX_KNOWN = 4096

SetRevoked = Callable[[list[bytes]], None]
"""Takes revocation lists in DER. Raises ValueError, without any change, if it cannot use them."""


class _Validity(NamedTuple):
    """What is remembered of a certificate, and of those that were presented with it."""

    not_after: float
    "When the first of them expires, in seconds since the epoch."
    problem: str
    "Why it is not valid, whatever the time is; empty if it is."


class ClientCertificates:
    """The revocation lists, which are read again when their file changes, and what is known of certificates."""

    def __init__(self, ca_file: str, crl_file: str = "", *, clock: Clock, dependency: Dependency) -> None:
        """`dependency` is told about lists that cannot be used or are out of date. Raises SettingsError."""
        self._files = crl_file, ca_file
        self._clock = clock
        self._dependency = dependency
        # The file of CAs, too: a list may be invalid only until its CA is there.
        self._watched = WatchedFiles(*self._files)
        self._followers: list[SetRevoked] = []
        self._revocations = Revocations.read(*self._files) if crl_file else Revocations()
        self._known: dict[bytes, _Validity] = {}
        "By their digests: a client may present 64 KiB of certificates with its own."
        self._next_expiry = math.inf
        "When the first of the certificates in use expires, in seconds since the epoch."
        self._report_overdue()

    def follow(self, set_revoked: SetRevoked) -> None:
        """Passes the revocation lists, now and after each change. Raises SettingsError if they cannot be used."""
        try:
            set_revoked(self._revocations.in_der())
        except ValueError as error:
            raise SettingsError(f"listen_tls_client_crl: {self._files[0]} cannot be used: {error}") from None
        self._followers.append(set_revoked)

    def check(self, properties: Mapping[str, Iterable[bytes]]) -> None:
        """Raises InvalidCertificate unless the certificate of a caller with these properties (C-core's names) is valid."""
        pem = b"".join((*properties.get("x509_pem_cert", ()), *properties.get("x509_pem_cert_chain", ())))
        digest = hashlib.sha256(pem).digest()
        found = self._known.get(digest)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            found = self._known[digest] = self._validity(pem)
        if found.problem:
            raise InvalidCertificate(found.problem)
        now = self._clock.now()
        if now >= found.not_after:
            raise InvalidCertificate(f"expired at {dt.datetime.fromtimestamp(found.not_after, dt.UTC):%Y-%m-%d %H:%M:%S} UTC")
        self._next_expiry = min(self._next_expiry, found.not_after)

    def look(self) -> bool:
        """Reads the lists again if their file has changed; returns whether certificates that were valid may not be any more."""
        has_new_lists = self._read_again()
        self._report_overdue()
        if not has_new_lists and self._clock.now() < self._next_expiry:
            return False
        # Now all open streams are checked again, and each certificate in use counts in the next expiry.
        self._next_expiry = math.inf
        return True

    def _read_again(self) -> bool:
        crl_file, _ = self._files
        if not crl_file or not self._watched.have_changed():
            return False
        try:
            revocations = Revocations.read(*self._files)
            for set_revoked in self._followers:
                set_revoked(revocations.in_der())
        except (SettingsError, ValueError) as error:
            self._dependency.report_failure(str(error), effect="the previous revocation lists stay in effect", problem="file")
            return False
        self._dependency.report_success("file")
        self._revocations = revocations
        self._known.clear()
        telemetry.log.info("revocation lists loaded", file=crl_file, count=len(revocations.lists))
        return True

    def _report_overdue(self) -> None:
        if overdue := self._revocations.overdue(dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)):
            effect = "certificates that were revoked since are accepted until they expire"
            self._dependency.report_failure(overdue, effect=effect, problem="overdue")
        else:
            self._dependency.report_success("overdue")

    def _validity(self, pem: bytes) -> _Validity:
        try:
            chain = x509.load_pem_x509_certificates(pem)
            revoked = next((cert for cert in chain if self._revocations.is_revoked(cert)), None)
            not_after = min(cert.not_valid_after_utc for cert in chain).timestamp()
        except (ValueError, x509.InvalidVersion):
            return _Validity(0.0, "cannot be read")
        if revoked is not None:
            issued = "" if revoked is chain[0] else f"was issued by {revoked.subject.rfc4514_string()}, which "
            return _Validity(not_after, f"{chain[0].serial_number:x} {issued}was revoked")
        return _Validity(not_after, "")
