"""The roles of callers, and how settings and the tokens file write them."""

import re
from collections.abc import Iterable
from enum import Enum


class Role(Enum):
    """What a caller may do."""

    APP = "app"
    "The data services: products, sessions, carts, inventory, user events."
    READ = "read"
    "The methods of AdminService that only read, and reflection."
    ADMIN = "admin"
    "All of AdminService, and whatever READ may do."


Roles = frozenset[Role]
_SEPARATORS = re.compile("[,+]")


def parse(text: str) -> Roles:
    """Returns the roles of `ROLE[,ROLE]` or `ROLE[+ROLE]`. Raises ValueError, without the text, which may be a token."""
    try:
        found = {Role(name) for name in _SEPARATORS.split(text)}
    except ValueError:
        raise ValueError(f"the roles are {', '.join(role.value for role in Role)}, joined by , or +") from None
    return frozenset(found | {Role.READ} if Role.ADMIN in found else found)


def parse_client(entry: str) -> tuple[str, Roles | None]:
    """Returns the name and the roles (None if not given) of an entry of allowed_clients: `NAME [ROLE[+ROLE]]`.

    Raises ValueError.
    """
    name, *rest = entry.split() or [""]
    if len(rest) > 1:
        raise ValueError(f"{entry!r} must be a name, or a name and its roles, such as `spiffe://shop/ops admin`")
    try:
        return name, parse(rest[0]) if rest else None
    except ValueError as error:
        raise ValueError(f"{entry!r}: {error}") from None


def parse_clients(entries: Iterable[str]) -> dict[str, Roles | None]:
    """Returns the roles of each name in entries as `parse_client` takes them. Raises ValueError."""
    found: dict[str, Roles | None] = {}
    for entry in entries:
        add_client(found, entry)
    return found


def add_client(found: dict[str, Roles | None], entry: str) -> None:
    """Adds the name of an entry, with its roles. Raises ValueError, also if the name is there with other roles."""
    name, roles = parse_client(entry)
    if found.setdefault(name, roles) != roles:
        raise ValueError(f"{name!r} is listed twice with different roles: list it once, with all its roles")


def text_of(roles: Roles) -> str:
    """Returns roles as they are written, for messages; those that another one implies are left out."""
    given = roles - {Role.READ} if Role.ADMIN in roles else roles
    return "+".join(sorted(role.value for role in given))
