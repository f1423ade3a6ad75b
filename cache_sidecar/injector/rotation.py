"""Keeps the webhook's certificate fresh without a restart: made here and shared by the replicas, or somebody else's files."""

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
from cache_sidecar.injector.api import Api, Conflict, Missing, Object
from cache_sidecar.injector.certificates import Material, Pair, renewed
from cache_sidecar.injector.config import CertificateConfig

_ATTEMPTS = 5


class Source(Protocol):
    """Where a certificate comes from."""

    async def current(self) -> Pair:
        """Returns the certificate to serve from now on; may raise SidecarError, and is asked again."""
        ...


class Served:
    """The TLS context of the server. What is loaded counts from the next handshake on; connections go on."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._pair: Pair | None = None
        self.expiry = 0.0
        "When the certificate expires, in seconds since the epoch; 0 without one."

    async def refresh(self, source: Source) -> None:
        """Loads the source's certificate when it is another one. Raises SidecarError, and keeps what it has."""
        pair = await source.current()
        if pair == self._pair:
            return
        try:
            expiry = certificates.expiry(pair.cert)
            self._load(pair)
        except (ValueError, ssl.SSLError) as error:
            raise SettingsError(f"the certificate and its key cannot be used: {error}") from None
        self._pair, self.expiry = pair, expiry
        telemetry.log.info("certificate loaded", expires=int(expiry))

    def _load(self, pair: Pair) -> None:
        # The module ssl takes files only.
        with tempfile.TemporaryDirectory() as folder:
            cert, key = Path(folder, "cert"), Path(folder, "key")
            cert.write_bytes(pair.cert)
            key.touch(mode=0o600)
            key.write_bytes(pair.key)
            # A pair that does not belong together would leave the context with half of it.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
            self.context.load_cert_chain(cert, key)


class FileSource:
    """A certificate that cert-manager or somebody else keeps in files."""

    def __init__(self, config: CertificateConfig) -> None:
        self._config = config

    async def current(self) -> Pair:
        """Returns what the files hold."""
        try:
            # Small, and local.
            return Pair(Path(self._config.cert_file).read_bytes(), Path(self._config.key_file).read_bytes())  # noqa: ASYNC240
        except OSError as error:
            raise SettingsError(f"cannot read the certificate: {error.filename}: {error.strerror}") from None


class OwnSource:
    """A certificate made here. The replicas share it in a Secret; whoever is first writes, the others read."""

    def __init__(self, api: Api, config: CertificateConfig, *, namespace: str, service: str, clock: Clock) -> None:
        self._api = api
        self._config = config
        self._secrets = f"/api/v1/namespaces/{namespace}/secrets"
        self._names = [f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"]
        self._clock = clock

    async def current(self) -> Pair:
        """Renews what is due, and tells the API server whom to trust before it returns what to show."""
        for _ in range(_ATTEMPTS):
            try:
                material = await self._shared()
            except Conflict:
                continue  # another replica wrote at the same time: read what it wrote
            await self._announce(material.bundle)
            return material.serving
        raise SettingsError(f"the Secret {self._config.secret} keeps changing: does another program write it?")

    async def _shared(self) -> Material:
        path = f"{self._secrets}/{self._config.secret}"
        try:
            secret = await self._api.get(path)
        except Missing:
            secret = None
        known = Material.from_secret(_decoded(secret)) if secret else None
        material = renewed(known, self._names, now=self._clock.now(), lifetime=self._config.lifetime)
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
        """Puts the bundle into every webhook of the configuration that has another."""
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{self._config.webhook}"
        text = base64.b64encode(bundle).decode()
        found = await self._api.get(path)
        patch: list[Object] = [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": text}
            for index, webhook in enumerate(found.get("webhooks") or [])
            if (webhook.get("clientConfig") or {}).get("caBundle") != text
        ]
        if patch:
            # Indexes are those of the version that was read.
            version = {"op": "test", "path": "/metadata/resourceVersion", "value": found["metadata"]["resourceVersion"]}
            await self._api.patch(path, [version, *patch])


def _decoded(secret: Object) -> dict[str, bytes]:
    try:
        return {name: base64.b64decode(value, validate=True) for name, value in (secret.get("data") or {}).items()}
    except (binascii.Error, TypeError):
        return {}
