"""A certificate authority for tests, and the certificates it signs."""

import datetime as dt
import ipaddress
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.tokens import secret_file


class Pair(NamedTuple):
    """A certificate and its key, in PEM."""

    cert: bytes
    key: bytes


class Authority:
    """Signs certificates that are valid today, and lists of those that it revokes."""

    def __init__(self, name: str = "an authority", *, above: "Authority | None" = None) -> None:
        """`above` signs its certificate; without, it does so itself."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.cert = (above or self)._signed(self._name, self._key, [], is_authority=True)
        "In PEM."

    def server(self, name: str = "localhost") -> Pair:
        """Returns a certificate for a name, localhost and 127.0.0.1."""
        return self.signed(
            name, [x509.DNSName(name), x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )

    def client(self, *names: str, common_name: str = "a client") -> Pair:
        """Returns a certificate with URIs and DNS names."""
        kinds = [x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name) for name in names]
        return self.signed(common_name, kinds)

    def signed(self, common_name: str, names: list[x509.GeneralName]) -> Pair:
        """Returns a certificate with any names."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Pair(self._signed(_named(common_name), key, names), pem)

    def crl(
        self, *revoked: bytes, next_update: dt.datetime | None = None, extension: x509.ExtensionType | None = None
    ) -> bytes:
        """Returns a list that revokes certificates, in PEM; valid for a day unless `next_update` is given."""
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        builder = x509.CertificateRevocationListBuilder(self._name, now - day, next_update or now + day)
        for pem in revoked:
            serial = x509.load_pem_x509_certificate(pem).serial_number
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, now - day).build())
        if extension is not None:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: list[x509.GeneralName],
        *,
        is_authority: bool = False,
    ) -> bytes:
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        builder = (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number(), now - day, now + day)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def not_after(pair: Pair) -> float:
    """Returns when a certificate expires, in seconds since the epoch."""
    return x509.load_pem_x509_certificate(pair.cert).not_valid_after_utc.timestamp()


def _named(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'A "shop", the é'), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def listen(folder: Path, pair: Pair, client_ca: bytes = b"") -> dict[str, str]:
    """Writes a sidecar's certificate and key into a folder, and returns the settings that name them."""
    files = {"listen_tls_cert": pair.cert, "listen_tls_key": pair.key} | (
        {"listen_tls_client_ca": client_ca} if client_ca else {}
    )
    for name, content in files.items():
        secret_file(folder / name, content)
    return {name: str(folder / name) for name in files}
