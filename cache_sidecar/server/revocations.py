"""Certificate revocation lists (CRLs): which of them count, and which certificates they revoke.

A list counts if its CA is in listen_tls_client_ca and has signed it. What it revokes stays revoked when the list is past its
next update: `overdue` says so, as certificates revoked since are not in it. To refuse everybody then would make an outage of
all callers of a job that failed to renew a list.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.watched_files import read_file

# Kubernetes' limit for a Secret is 1 MiB, which is 20,000 revoked certificates.
MAX_BYTES = 16 << 20
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"


class Revocations:
    """The revocation lists of a file."""

    def __init__(self, lists: Sequence[x509.CertificateRevocationList] = ()) -> None:
        self.lists = lists
        self._revoked: dict[bytes, set[int]] = {}
        "Serial numbers, by their issuers' names in DER."
        for crl in lists:
            serials = self._revoked.setdefault(crl.issuer.public_bytes(), set())
            serials.update(revoked.serial_number for revoked in crl)

    @classmethod
    def read(cls, crl_file: str, ca_file: str) -> Self:
        """Returns the lists in a PEM file, checked against the CAs in another. Raises SettingsError."""
        data, cas = _read(crl_file), _cas(ca_file)
        try:
            return cls(_parse(data, cas))
        except ValueError as error:
            raise SettingsError(f"listen_tls_client_crl: {crl_file} {error}") from None

    def in_der(self) -> list[bytes]:
        """Returns the lists in DER."""
        return [crl.public_bytes(Encoding.DER) for crl in self.lists]

    def is_revoked(self, cert: x509.Certificate) -> bool:
        """Returns whether a list of the certificate's issuer has its serial number."""
        return cert.serial_number in self._revoked.get(cert.issuer.public_bytes(), ())

    def overdue(self, now: dt.datetime) -> str:
        """Returns which lists are past their next update, for operators; an empty string if none is."""
        return "; ".join(
            f"the CRL of {crl.issuer.rfc4514_string()} was to be updated by {crl.next_update_utc:%Y-%m-%d %H:%M:%S} UTC"
            for crl in self.lists
            if crl.next_update_utc is not None and crl.next_update_utc <= now
        )


def _parse(data: bytes, cas: list[x509.Certificate]) -> list[x509.CertificateRevocationList]:
    """Returns the lists in PEM. Raises ValueError, which says what is wrong with the file."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    try:
        found = [x509.load_pem_x509_crl(part[part.find(_BEGIN) :] + _END) for part in data.split(_END) if _BEGIN in part]
    except (ValueError, x509.InvalidVersion):
        raise ValueError("has a CRL that cannot be read") from None
    if not found:
        raise ValueError("has no CRL in PEM")
    for crl in found:
        _check(crl, cas)
    return found


def _check(crl: x509.CertificateRevocationList, cas: list[x509.Certificate]) -> None:
    """Raises ValueError, which says what is wrong with the file, for a list that cannot be relied on."""
    name = crl.issuer.rfc4514_string()
    known = [ca for ca in cas if ca.subject.public_bytes() == crl.issuer.public_bytes()]
    if not known:
        raise ValueError(f"has a CRL of {name}, which is not in listen_tls_client_ca: add that CA there, or remove its CRL")
    if not any(_is_signed(crl, ca) for ca in known):
        raise ValueError(f"has a CRL of {name} that this CA has not signed")
    for extension in crl.extensions:
        value = extension.value
        is_partial = isinstance(value, x509.IssuingDistributionPoint)
        if (isinstance(value, x509.IssuingDistributionPoint) and value.indirect_crl) or (extension.critical and not is_partial):
            raise ValueError(
                f"has a CRL of {name} with an extension that is not supported ({extension.oid.dotted_string}): "
                "delta CRLs and indirect CRLs cannot be used"
            )


def _is_signed(crl: x509.CertificateRevocationList, ca: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]  # TypeError for a kind of key that cannot sign
    except TypeError:
        return False


def _cas(file: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(file))
    except (ValueError, x509.InvalidVersion):
        raise SettingsError(f"listen_tls_client_ca: {file} is not a PEM file with certificates") from None


def _read(file: str) -> bytes:
    try:
        return read_file(file, MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"listen_tls_client_crl: cannot read {file}: {error.strerror}") from None
