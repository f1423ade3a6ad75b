"""The Secrets that annotations name, as files of the sidecar's container; the kubelet mounts and updates them."""

from typing import Any, NamedTuple

from cache_sidecar.injector.options import Options

FOLDER = "/etc/cache-sidecar"
"Each Secret is a folder in it."
# The files belong to root, and only fsGroup would change that, for all volumes of the pod. So the sidecar's user can read them
# only as one of all others. No other container has the volume, and on the node only root reaches it.
_MODE = 0o444


class SecretFiles(NamedTuple):
    """A Secret to mount."""

    kind: str
    "The name of the folder."
    secret: str
    keys: tuple[str, ...]
    "The keys that become files, so that no other one gets into the pod, such as the private key of a CA; none for all."
    settings: dict[str, str]
    "The settings that name files, each with its key."

    @property
    def values(self) -> dict[str, str]:
        """The settings with the paths of their files."""
        return {name: f"{FOLDER}/{self.kind}/{key}" for name, key in self.settings.items()}

    @property
    def mount(self) -> dict[str, Any]:
        """The mount in the sidecar's container."""
        return {"name": _volume_name(self.kind), "mountPath": f"{FOLDER}/{self.kind}", "readOnly": True}

    @property
    def volume(self) -> dict[str, Any]:
        """The volume of the pod."""
        source: dict[str, Any] = {"secretName": self.secret, "defaultMode": _MODE}
        if self.keys:
            source["items"] = [{"key": key, "path": key} for key in self.keys]
        return {"name": _volume_name(self.kind), "secret": source}


def _volume_name(kind: str) -> str:
    return f"cache-sidecar-{kind}"


VOLUMES = frozenset(map(_volume_name, ("tls", "tokens", "redis-tls", "postgres-ca", "files")))
"The names of all volumes that Secrets may get."


def list_secret_files(options: Options) -> list[SecretFiles]:
    """Returns the Secrets to mount."""
    found = []
    if options.tls != "disabled":
        settings = {"LISTEN_TLS_CERT": "tls.crt", "LISTEN_TLS_KEY": "tls.key"}
        settings |= {"LISTEN_TLS_CLIENT_CA": "ca.crt"} if options.tls == "mutual" else {}
        found.append(_make("tls", options.tls_secret, settings))
    if options.tokens_secret:
        found.append(_make("tokens", options.tokens_secret, {"ACCESS_TOKENS_FILE": "tokens"}))
    if options.redis_tls != "disabled":
        settings = {"REDIS_TLS_CA": "ca.crt"}
        settings |= {"REDIS_TLS_CERT": "tls.crt", "REDIS_TLS_KEY": "tls.key"} if options.redis_tls == "mutual" else {}
        found.append(_make("redis-tls", options.redis_tls_secret, settings))
    if options.postgres_ca_secret:
        found.append(_make("postgres-ca", options.postgres_ca_secret, {"POSTGRES_TLS_CA": "ca.crt"}))
    if options.files_secret:
        found.append(SecretFiles("files", options.files_secret, (), {}))
    return found


def _make(kind: str, secret: str, settings: dict[str, str]) -> SecretFiles:
    return SecretFiles(kind, secret, tuple(settings.values()), settings)
