"""When the certificates in files expire."""

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from cache_sidecar.config.settings import Settings
from cache_sidecar.metrics import definitions as d
from cache_sidecar.metrics.exposition import Families

# Seconds between two readings of the files.
EVERY = 30.0
# The settings that name the files of a sidecar, and those of a relay, which has no callers.
RELAY = ("redis_tls_ca", "redis_tls_cert", "postgres_tls_ca")
SIDECAR = ("listen_tls_cert", "listen_tls_client_ca", *RELAY)


class Certificates:
    """The certificates of a process, by the settings that name their files."""

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self._files = {name: file for name in names if (file := str(getattr(settings, name)))}
        self._expiries: dict[str, float] = {}

    def look(self) -> None:
        """Reads the files. One without a certificate is left out; those who use it report it."""
        found = {name: _expiry(file, is_bundle=name.endswith("_ca")) for name, file in self._files.items()}
        self._expiries = {name: expiry for name, expiry in found.items() if expiry is not None}

    def collect(self) -> Families:
        """Yields the metric."""
        yield d.CERTIFICATE_EXPIRY, {(name,): expiry for name, expiry in self._expiries.items()}


def _expiry(file: str, *, is_bundle: bool) -> float | None:
    """Returns when a file expires, in seconds since the epoch; None if it has no certificate.

    A chain expires with its first certificate, a bundle of CAs with its last: of two that overlap, the old one is not needed.
    """
    try:
        found = [one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(Path(file).read_bytes())]
    except (OSError, ValueError):
        return None
    return max(found) if is_bundle else min(found)
