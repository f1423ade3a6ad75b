"""Self-signed certificates of the injector. No I/O, and the time is an argument.

A CA signs the webhook's certificate, and the API server trusts the CAs in its `caBundle`. A new CA is published there before
it signs anything, and an old one stays until it expires. So the API server trusts the certificate that the webhook presents,
whichever of the two changes it observes first.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Tolerated clock skew between the machines of the cluster, in seconds.
BACKDATED = 300.0
# CAs live this many times as long as certificates, and are published for SETTLING seconds before they sign.
AUTHORITY_LIFETIMES = 12
SETTLING = 600.0


class Pair(NamedTuple):
    """A certificate and its key, both as PEM."""

    cert: bytes
    key: bytes


class Material(NamedTuple):
    """All certificates and keys: the content of the Secret."""

    authorities: tuple[Pair, ...]
    "Oldest first."
    serving: Pair

    @property
    def bundle(self) -> bytes:
        """The CA certificates that the API server is to trust, as PEM."""
        return b"".join(authority.cert for authority in self.authorities)

    def to_secret(self) -> dict[str, bytes]:
        """Returns the data for the Secret."""
        keys = b"".join(authority.key for authority in self.authorities)
        return {"ca.crt": self.bundle, "ca.key": keys, "tls.crt": self.serving.cert, "tls.key": self.serving.key}

    @classmethod
    def from_secret(cls, data: dict[str, bytes]) -> Self | None:
        """Returns the content of a Secret, None if `to_secret` did not create it."""
        certs = _split(data.get("ca.crt", b""), b"CERTIFICATE")
        keys = _split(data.get("ca.key", b""), b"PRIVATE KEY")
        serving = Pair(data.get("tls.crt", b""), data.get("tls.key", b""))
        authorities = tuple(Pair(cert, key) for cert, key in zip(certs, keys, strict=False))
        if len(certs) != len(keys) or not all(_matches(pair) for pair in (*authorities, serving)):
            return None
        return cls(authorities, serving)


def renew(material: Material | None, names: list[str], *, now: float, lifetime: float) -> Material:
    """Returns the certificates to use from now on; the same ones if no renewal is due.

    `names` are the DNS names of the webhook, `lifetime` is the validity of a certificate in seconds.
    """
    settling = min(SETTLING, lifetime / 20)
    authorities = [pair for pair in (material.authorities if material else ()) if _span(pair.cert)[1] > now]
    if not authorities or _is_due(authorities[-1].cert, now):
        authorities.append(_authority(now, lifetime * AUTHORITY_LIFETIMES))
    settled = [pair for pair in authorities if now - _span(pair.cert)[0] - BACKDATED >= settling]
    signer = settled[-1] if settled else authorities[0]
    serving = material and material.serving
    if not serving or _is_due(serving.cert, now) or not _is_signed(serving.cert, signer.cert) or _names(serving.cert) != names:
        serving = _serving(signer, names, now, lifetime)
    return Material(tuple(authorities), serving)


def expiry(cert: bytes) -> float:
    """Returns when a certificate expires, in seconds since the epoch. Raises ValueError if it is not a certificate."""
    return _span(cert)[1]


def _span(cert: bytes) -> tuple[float, float]:
    parsed = x509.load_pem_x509_certificate(cert)
    return parsed.not_valid_before_utc.timestamp(), parsed.not_valid_after_utc.timestamp()


def _is_due(cert: bytes, now: float) -> bool:
    start, end = _span(cert)
    return now >= start + (end - start) * 2 / 3


def _is_signed(cert: bytes, authority: bytes) -> bool:
    try:
        x509.load_pem_x509_certificate(cert).verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except Exception:  # noqa: BLE001  # several errors of two libraries, all of which mean "not signed by it"
        return False
    return True


def _names(cert: bytes) -> list[str]:
    parsed = x509.load_pem_x509_certificate(cert)
    return parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


def _matches(pair: Pair) -> bool:
    try:
        public = x509.load_pem_x509_certificate(pair.cert).public_key()
        return load_pem_private_key(pair.key, None).public_key() == public
    except (ValueError, TypeError):
        return False


def _split(pem: bytes, kind: bytes) -> list[bytes]:
    end = b"-----END " + kind + b"-----\n"
    return [part + end for part in pem.split(end)[:-1]]


def _authority(now: float, lifetime: float) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cache-sidecar-injector")])
    builder = _builder(name, name, key, now, lifetime)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(
        usage, critical=True
    )
    return _sign(builder, key, key)


def _serving(signer: Pair, names: list[str], now: float, lifetime: float) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.load_pem_x509_certificate(signer.cert)
    # A common name has at most 64 characters; clients check the alternative names.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    # Clients reject a certificate that outlives its CA once the CA expires.
    lifetime = min(lifetime, authority.not_valid_after_utc.timestamp() - now)
    builder = (
        _builder(subject, authority.subject, key, now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)  # type: ignore[arg-type]
    )
    return _sign(builder, key, load_pem_private_key(signer.key, None))  # type: ignore[arg-type]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: float, lifetime: float
) -> x509.CertificateBuilder:
    start = datetime.fromtimestamp(now - BACKDATED, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(seconds=BACKDATED + lifetime))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey) -> Pair:
    cert = builder.sign(signer, hashes.SHA256())
    return Pair(
        cert.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
