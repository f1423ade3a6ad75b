"""Access: which callers may call which methods.

First a caller is authenticated, by a bearer token and with mutual TLS by its certificate and the names in it, where the
settings require them. Then its roles are compared with what the method needs. Tokens and names without roles, and callers of
sidecars that require neither, may do what `_may_without_role` says; a token's or name's rights never depend on the other
entries.

Where a token and a name are both required, the caller has the roles that both grant. grpc.health.v1 needs nothing, so that
probes and load balancers need no token. The native engine answers hits without Python only to callers with the role `app`,
see `native/src/access.rs`; all other calls, and all refusals, are decided here.
"""

import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import unquote

from cache_sidecar.config import roles
from cache_sidecar.config.roles import Role, Roles
from cache_sidecar.config.settings import Settings
from cache_sidecar.core import telemetry
from cache_sidecar.core.clock import Clock
from cache_sidecar.core.dependencies import Dependencies
from cache_sidecar.core.errors import ClientNotAllowed, RoleMissing, SettingsError, Unauthenticated
from cache_sidecar.core.watched_files import WatchedFiles
from cache_sidecar.server import bearer
from cache_sidecar.server.access_files import Token, read_clients, read_tokens

if TYPE_CHECKING:
    from cache_sidecar.server.client_certificates import ClientCertificates

# The kinds of names in a certificate.
_KINDS = ("peer_uri", "peer_dns", "peer_email", "peer_ip")
# Only these two of the loopback addresses: a service mesh forwards calls from other pods from 127.0.0.6 (Istio).
_LOOPBACK = {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"), ipaddress.ip_address("::ffff:127.0.0.1")}

Properties = Mapping[str, Iterable[bytes]]
"""Those of a caller's certificate, with C-core's names."""
SetTokens = Callable[[list[bytes], list[bytes]], None]
"""Takes the tokens that may call the data services, and all."""
SetClients = Callable[[list[str], list[str]], None]
"""The same for the names in certificates."""


class Need(Enum):
    """What a method needs of its caller."""

    DATA = "data"
    REFLECTION = "reflection"
    ADMIN_READ = "admin read"
    "Methods of AdminService that change nothing."
    ADMIN_CHANGE = "admin change"

    @property
    def role(self) -> Role:
        """The role that callers need."""
        return _ROLES[self]


_ROLES = {Need.DATA: Role.APP, Need.REFLECTION: Role.READ, Need.ADMIN_READ: Role.READ, Need.ADMIN_CHANGE: Role.ADMIN}


class Caller(NamedTuple):
    """A caller who was authenticated."""

    name: str
    "Its token and certificate, for logs and messages, such as `token cart`; empty if it showed neither."
    roles: Roles | None
    "None if neither its token nor its certificate's names have roles."
    peer: str
    "Its address, such as `ipv4:127.0.0.1:4711`."

    @property
    def is_local(self) -> bool:
        """Whether it calls over the Unix socket or the loopback interface."""
        return _is_local(self.peer)


class Access:
    """The tokens, the names and the validity of certificates; all are read again when their files change."""

    def __init__(
        self,
        tokens_file: str = "",
        allowed_clients: Collection[str] = (),
        *,
        clients_file: str = "",
        certificates: "ClientCertificates | None" = None,
        is_local_admin_allowed: bool = False,
    ) -> None:
        """Without a file no token is required, and without names none in a certificate; `clients_file` has names, too.

        `certificates` is None if clients present none. Raises SettingsError.
        """
        self._file = tokens_file
        self._clients_file = clients_file
        self._watched = WatchedFiles(tokens_file)
        self._watched_clients = WatchedFiles(clients_file)
        self._certificates = certificates
        self._on_tokens: list[SetTokens] = []
        self._on_clients: list[SetClients] = []
        self._on_change: list[Callable[[], None]] = []
        self._tokens: list[Token] = []
        self._by_digest: dict[bytes, Token] = {}
        self._set_tokens(read_tokens(tokens_file) if tokens_file else [])
        self._clients = _by_kind(read_clients(clients_file) if clients_file else roles.parse_clients(allowed_clients))
        self._is_local_admin_allowed = is_local_admin_allowed

    @classmethod
    def of(cls, settings: Settings, *, clock: Clock, dependencies: Dependencies) -> Self:
        """Returns the access that the settings define. Raises SettingsError."""
        certificates = None
        if settings.listen_tls_client_ca:
            # It loads `cryptography`, 10 MiB that only mutual TLS needs.
            from cache_sidecar.server.client_certificates import ClientCertificates  # noqa: PLC0415

            certificates = ClientCertificates(
                settings.listen_tls_client_ca,
                settings.listen_tls_client_crl,
                clock=clock,
                dependency=dependencies.of("revocations"),
            )
        return cls(
            settings.access_tokens_file,
            settings.allowed_clients,
            clients_file=settings.allowed_clients_file,
            certificates=certificates,
            is_local_admin_allowed=settings.local_admin,
        )

    def is_open_to_all(self, need: Need) -> bool:
        """Returns whether every caller may call methods with this need, and `check` never raises."""
        is_open = not self._file and not self._clients and self._certificates is None
        return is_open and need in {Need.DATA, Need.REFLECTION}

    @property
    def needs_certificates(self) -> bool:
        """Whether callers over TCP have to present a client certificate."""
        return self._certificates is not None or bool(self._clients)

    def follow_tokens(self, set_tokens: SetTokens) -> None:
        """Passes the tokens, now and after each change, if tokens are required."""
        self._on_tokens.append(set_tokens)
        if self._file:
            set_tokens(*self._values())

    def follow_clients(self, set_clients: SetClients) -> None:
        """The same for the names that clients need over TCP."""
        self._on_clients.append(set_clients)
        if self._clients:
            set_clients(*self._names())

    def follow_revocations(self, set_revoked: Callable[[list[bytes]], None]) -> None:
        """Passes the revocation lists in DER, now and after each change. Raises SettingsError if they cannot be used."""
        if self._certificates is not None:
            self._certificates.follow(set_revoked)

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls `changed` when callers that were admitted may no longer be: by another token, name, role, or certificate."""
        self._on_change.append(changed)

    def look(self) -> None:
        """Reads tokens, names and revocation lists again if their files have changed, and notices certificates that expired."""
        have_changed = [self._read_tokens(), self._read_clients(), self._certificates is not None and self._certificates.look()]
        if any(have_changed):
            for changed in self._on_change:
                changed()

    def _set_tokens(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._by_digest = {sha256(token.value).digest(): token for token in tokens}

    def check(self, need: Need, method: str, context: Any) -> None:
        """Raises an error of `authenticate`, or RoleMissing, if the caller may not call a method."""
        caller = self.authenticate(context)
        if caller.roles is None:
            if not self._may_without_role(need, caller):
                raise RoleMissing(method, need.role.value, "", caller.name, self._advice(need, caller))
        elif need.role not in caller.roles:
            raise RoleMissing(method, need.role.value, roles.text_of(caller.roles), caller.name, self._advice(need, caller))

    def authenticate(self, context: Any) -> Caller:
        """Returns the caller. Raises Unauthenticated, InvalidCertificate or ClientNotAllowed."""
        peer = context.peer()
        names: list[str] = []
        granted: list[Roles | None] = []
        if self._file:
            token = self._token(context.invocation_metadata() or ())
            names.append(f"token {token.name}".rstrip())
            granted.append(token.roles)
        # The mode and group of the Unix socket restrict who can connect to it.
        if self.needs_certificates and not peer.startswith("unix:"):
            properties = context.auth_context()
            if self._certificates is not None:
                self._certificates.check(properties)
            if self._clients:
                name, of_names = self._client(properties)
                names.append(f"certificate {name}")
                granted.append(of_names)
        given = [one for one in granted if one is not None]
        return Caller(" and ".join(names), frozenset.intersection(*given) if given else None, peer)

    def _may_without_role(self, need: Need, caller: Caller) -> bool:
        """Returns whether a caller may call if neither its token nor its name has roles."""
        if need is Need.ADMIN_CHANGE:
            return caller.is_local and self._is_local_admin_allowed
        return caller.is_local or need is not Need.ADMIN_READ

    def _advice(self, need: Need, caller: Caller) -> str:
        """Returns what to configure so that the caller may call."""
        role = need.role.value
        if caller.roles == frozenset():
            both = f"add {role} to both, in access_tokens_file and allowed_clients"
            return f"its token and its certificate have no role in common; {both}"
        if caller.roles is not None:
            return f"add {role} to its roles in access_tokens_file or allowed_clients"
        advice = f"give it one: `NAME {role} TOKEN` in access_tokens_file, or `NAME {role}` in allowed_clients"
        if need is Need.ADMIN_READ:
            return f"{advice}; without a role, call from loopback or the Unix socket"
        return f"{advice}; or set local_admin" if caller.is_local else advice

    def _token(self, metadata: Iterable[tuple[str, str | bytes]]) -> Token:
        values = [bearer.token_of(value) for key, value in metadata if key == "authorization" and isinstance(value, str)]
        shown = [value for value in values if value is not None]
        # Looked up by their digests: the time this takes reveals nothing of a token, as nobody can choose how a digest begins,
        # and does not grow with the number of tokens, as comparing each with all that a caller sends would.
        for value in shown:
            if (token := self._by_digest.get(sha256(value).digest())) is not None:
                return token
        raise Unauthenticated(had_token=bool(shown))

    def _client(self, properties: Properties) -> tuple[str, Roles | None]:
        """Returns the names of the caller's certificate that are allowed, and the roles that they have together."""
        shown = [(kind, name.decode()) for kind in _KINDS for name in properties.get(kind, ())]
        found = {name: self._clients[kind, name] for kind, name in shown if (kind, name) in self._clients}
        if not found:
            raise ClientNotAllowed(", ".join(sorted({name for _, name in shown})))
        return ", ".join(found), _union(found.values())

    def _read_tokens(self) -> bool:
        if not self._file or not self._watched.have_changed():
            return False
        try:
            self._set_tokens(read_tokens(self._file))
        except SettingsError as error:
            telemetry.log.error("invalid tokens file ignored; the previous tokens stay valid", error=str(error))
            return False
        for set_tokens in self._on_tokens:
            set_tokens(*self._values())
        telemetry.log.info("tokens loaded", file=self._file, count=len(self._tokens))
        return True

    def _read_clients(self) -> bool:
        if not self._clients_file or not self._watched_clients.have_changed():
            return False
        try:
            self._clients = _by_kind(read_clients(self._clients_file))
        except SettingsError as error:
            telemetry.log.error("invalid file of client names ignored; the previous names stay allowed", error=str(error))
            return False
        for set_clients in self._on_clients:
            set_clients(*self._names())
        telemetry.log.info("client names loaded", file=self._clients_file, count=len(self._clients))
        return True

    def _values(self) -> tuple[list[bytes], list[bytes]]:
        of_apps = [token.value for token in self._tokens if _may_use_data(token.roles)]
        return of_apps, [token.value for token in self._tokens]

    def _names(self) -> tuple[list[str], list[str]]:
        of_apps = [name for (_, name), granted in self._clients.items() if _may_use_data(granted)]
        return of_apps, [name for _, name in self._clients]


def _by_kind(clients: Mapping[str, Roles | None]) -> dict[tuple[str, str], Roles | None]:
    return {(_kind(name), name): granted for name, granted in clients.items()}


def _kind(name: str) -> str:
    """Returns the property of a certificate that an allowed name is compared with.

    A name of one kind must not pass for one of another: a CA may check some kinds less carefully. The same in
    `native/src/identity.rs`.
    """
    if "://" in name:
        return "peer_uri"
    if "@" in name:
        return "peer_email"
    try:
        return "peer_ip" if ipaddress.ip_address(name) and "%" not in name else "peer_dns"
    except ValueError:
        return "peer_dns"


def _may_use_data(granted: Roles | None) -> bool:
    return granted is None or Role.APP in granted


def _union(all_roles: Iterable[Roles | None]) -> Roles | None:
    """Returns the roles that several names of one certificate have together; a name without roles counts as `app`."""
    found = list(all_roles)
    if all(granted is None for granted in found):
        return None
    return frozenset[Role]().union(*(frozenset({Role.APP}) if granted is None else granted for granted in found))


def _is_local(peer: str) -> bool:
    """Returns whether a peer, such as `ipv4:127.0.0.1:4711` or `ipv6:%5B::1%5D:4711`, is on this machine."""
    if peer.startswith("unix:"):
        return True
    host = unquote(peer.partition(":")[2]).rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host) in _LOOPBACK
    except ValueError:
        return False
