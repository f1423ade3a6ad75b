"""Renews the webhook's certificate without a restart: self-signed and shared by replicas, or read from files."""

import base64
import binascii
import ssl
import tempfile
from pathlib import Path
from typing import Protocol

from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.injector import certificates
from cache_sidecar.injector.api import Api, Conflict, Missing, Object, path_of
from cache_sidecar.injector.certificates import Material, Pair, renew
from cache_sidecar.injector.config import CertificateConfig

_ATTEMPTS = 5


class Source(Protocol):
    """A source of certificates."""

    async def current(self) -> Pair:
        """Returns the certificate to serve from now on. Raises SidecarError; the caller retries."""
        ...


class Served:
    """The TLS context of the server. New files apply from the next handshake on; connections stay open."""

    def __init__(self, client_ca_file: str = "") -> None:
        """With a file of CAs, clients must present a certificate that one of them has signed. Raises SettingsError."""
        self._client_ca_file = client_ca_file
        self._client_ca = self._read_client_ca()
        self.context = self._current = self._make_context()
        if client_ca_file:
            # A context only ever adds CAs. So each connection switches to the latest one, where removed CAs are not trusted.
            self.context.sni_callback = self._switch
        self._pair: Pair | None = None
        self.expiry = 0.0
        "Expiry of the certificate in seconds since the epoch; 0 without one."

    async def refresh(self, source: Source) -> None:
        """Loads the source's certificate if it has changed. Raises SidecarError and keeps the previous one if it is invalid."""
        pair, client_ca = await source.current(), self._read_client_ca()
        if (pair, client_ca) == (self._pair, self._client_ca):
            return
        try:
            expiry = certificates.expiry(pair.cert)
            self._load(pair, client_ca)
        except (ValueError, ssl.SSLError) as error:
            raise SettingsError(f"invalid certificate or key: {error}") from None
        self._pair, self._client_ca, self.expiry = pair, client_ca, expiry
        telemetry.log.info("certificate loaded", expires=int(expiry))

    def _switch(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _read_client_ca(self) -> str:
        """Returns the CAs of clients. Raises SettingsError if the file holds none."""
        if not self._client_ca_file:
            return ""
        try:
            text = Path(self._client_ca_file).read_text("ascii")
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            raise SettingsError(f"server.client_ca_file: {self._client_ca_file} holds no certificate in PEM") from None
        except OSError as error:
            raise SettingsError(f"server.client_ca_file: cannot read {self._client_ca_file}: {error.strerror}") from None
        return text

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._client_ca_file:
            context.verify_mode = ssl.CERT_REQUIRED
            # Nor may a session be resumed: that would skip the check of the certificate. TLS 1.2 also resumes without tickets.
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
        return context

    def _load(self, pair: Pair, client_ca: str) -> None:
        # The ssl module loads certificates only from files.
        with tempfile.TemporaryDirectory() as folder:
            cert, key = Path(folder, "cert"), Path(folder, "key")
            cert.write_bytes(pair.cert)
            key.touch(mode=0o600)
            key.write_bytes(pair.key)
            # Tried on another context first: a key that does not match would leave this one with only the new certificate.
            current = self._make_context()
            current.load_cert_chain(cert, key)
            if client_ca:
                current.load_verify_locations(cadata=client_ca)
            self.context.load_cert_chain(cert, key)
            self._current = current


class FileSource:
    """A certificate in files, such as those of cert-manager."""

    def __init__(self, config: CertificateConfig) -> None:
        self._config = config

    async def current(self) -> Pair:
        """Returns the content of the files."""
        try:
            # Blocking is fine: the files are small and local.
            return Pair(Path(self._config.cert_file).read_bytes(), Path(self._config.key_file).read_bytes())  # noqa: ASYNC240
        except OSError as error:
            raise SettingsError(f"cannot read the certificate: {error.filename}: {error.strerror}") from None


class OwnSource:
    """A self-signed certificate. The replicas share it in a Secret: the first one writes it, the others read it."""

    def __init__(self, api: Api, config: CertificateConfig, *, namespace: str, service: str, clock: Clock) -> None:
        self._api = api
        self._config = config
        self._secrets = path_of("api", "v1", "namespaces", namespace, "secrets")
        self._names = [f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"]
        self._clock = clock

    async def current(self) -> Pair:
        """Renews what is due and returns the certificate, after the API server has been told to trust its CA."""
        for _ in range(_ATTEMPTS):
            try:
                material = await self._load_or_renew()
            except Conflict:
                continue  # another replica wrote at the same time: read its certificate
            await self._announce(material.bundle)
            return material.serving
        raise SettingsError(f"the Secret {self._config.secret} keeps changing: does another program write it?")

    async def _load_or_renew(self) -> Material:
        path = self._secrets + path_of(self._config.secret)
        try:
            secret = await self._api.get(path)
        except Missing:
            secret = None
        known = Material.from_secret(_decode(secret)) if secret else None
        material = renew(known, self._names, now=self._clock.now(), lifetime=self._config.lifetime)
        if material == known:
            return material
        body: Object = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": self._config.secret},
            "data": {name: base64.b64encode(value).decode() for name, value in material.to_secret().items()},
        }
        if secret:
            await self._api.replace(path, secret | {"data": body["data"]})
        else:
            await self._api.create(self._secrets, body)
        telemetry.log.info("certificate renewed", authorities=len(material.authorities))
        return material

    async def _announce(self, bundle: bytes) -> None:
        """Updates the caBundle of every webhook in the configuration that has another one."""
        path = path_of("apis", "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", self._config.webhook)
        text = base64.b64encode(bundle).decode()
        found = await self._api.get(path)
        patch: list[Object] = [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": text}
            for index, webhook in enumerate(found.get("webhooks") or [])
            if (webhook.get("clientConfig") or {}).get("caBundle") != text
        ]
        if patch:
            # The indexes are valid only for the version that was read.
            version = {"op": "test", "path": "/metadata/resourceVersion", "value": found["metadata"]["resourceVersion"]}
            await self._api.patch(path, [version, *patch])


def _decode(secret: Object) -> dict[str, bytes]:
    try:
        return {name: base64.b64decode(value, validate=True) for name, value in (secret.get("data") or {}).items()}
    except (binascii.Error, TypeError):
        return {}
