"""What a sidecar and a relay need in PostgreSQL: `migrate` grants exactly this, and each checks that it has it.

Neither needs the rights of the schema's owner, who could drop the triggers that everything relies on. The relay moves ids, and
reads no session, cart or reply.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from psycopg import sql

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
# Kinds of which a right must be listed to be granted.
_GRANTED_BY_NAME = {"S", "f"}
_KINDS = {"S": "SEQUENCE", "f": "FUNCTION"}
_COLUMNS = re.compile(r"(\w+) \((.+)\)")


class Rights(NamedTuple):
    """What one kind of process may do in the schema."""

    relations: Mapping[str, Sequence[str]]
    "Privileges by table, sequence, view or function; `SELECT (a, b)` is one on columns."
    tables: Sequence[str]
    "Privileges on every other table or view: those of datasets."

    def on(self, relation: "Relation") -> Sequence[str]:
        """Returns the privileges on a relation. One that is not known is a dataset's, or a view of the shop's."""
        return self.relations.get(relation.name, () if relation.kind in _GRANTED_BY_NAME else self.tables)


class Relation(NamedTuple):
    """A relation or function of the schema."""

    name: str
    kind: str
    "As in pg_class: r and p are tables, v is a view, S a sequence; and f is a function that runs with its owner's rights."


SIDECAR = Rights(
    {
        "add_user_events": ["EXECUTE"],
        "delete_provided_lists": ["EXECUTE"],
        "erase_recommendation_user": ["EXECUTE"],
        "event_mark_seq": ["USAGE"],
        "event_marks": ["SELECT (mark)", "INSERT"],
        "event_relays": ["SELECT"],
        "inventory_adjustments": ["INSERT"],
        "migrations": ["SELECT"],
        "outbox": ["SELECT"],
        "position_seq": ["SELECT"],
        "product_documents": ["SELECT"],
        "product_entries": ["SELECT"],
        "product_list_state": ["SELECT"],
        "product_lists": ["SELECT"],
        "product_search_state": ["SELECT"],
        "provided_recommendations": _ALL,
        "recommendation_batches": _ALL,
        "recommendation_ahead": [],
        "recommendation_items": ["SELECT"],
        "recommendation_model": ["SELECT"],
        "recommendation_popular": ["SELECT"],
        "recommendation_profiles": ["SELECT"],
        "recommendation_purchases": [],
        "recommendation_rows": ["SELECT"],
        "recommendation_users": ["SELECT"],
        "relays": ["SELECT"],
        "reservation_items": ["SELECT", "INSERT"],
        "reservations": ["SELECT", "INSERT", "UPDATE"],
        "user_events": ["SELECT", "DELETE"],
        "version_seq": ["USAGE"],
        "versions": ["SELECT"],
    },
    tables=_ALL,
)
# Where a statement locks rows with FOR UPDATE, PostgreSQL asks for UPDATE on one of their columns.
RELAY = Rights(
    {
        "add_user_events": ["EXECUTE"],
        "clear_recommendations": ["EXECUTE"],
        "drop_event_partitions": ["EXECUTE"],
        "erase_recommendation_user": ["EXECUTE"],
        "event_marks": ["SELECT", "DELETE"],
        "event_position_seq": ["SELECT"],
        "event_relays": ["SELECT", "INSERT", "UPDATE"],
        "index_products": ["EXECUTE"],
        "inventory": ["SELECT", "UPDATE (available, reserved, update_time)"],
        "make_event_partition": ["EXECUTE"],
        "migrations": ["SELECT"],
        "outbox": ["SELECT", "DELETE"],
        "product_lists": ["SELECT"],
        "recommendation_ahead": _ALL,
        "recommendation_items": _ALL,
        "recommendation_model": _ALL,
        "recommendation_popular": _ALL,
        "recommendation_profiles": ["SELECT (user_id, version)"],
        "recommendation_purchases": _ALL,
        "recommendation_rows": _ALL,
        "recommendation_users": _ALL,
        "relays": ["SELECT", "INSERT", "UPDATE"],
        "requests": ["SELECT (scope, request_id, create_time)", "DELETE"],
        "reservation_items": ["SELECT"],
        "reservations": [
            "SELECT (reservation_id, state, expire_time, expire_failures, retry_time)",
            "UPDATE (state, end_time, expire_failures, retry_time)",
        ],
        "sessions": ["SELECT (session_hash, use_time, delete_time)", "UPDATE (use_time)", "DELETE"],
        "user_events": ["SELECT", "DELETE"],
        "version_seq": ["USAGE"],
    },
    tables=(),
)

# Without partitions, which are reached through their table, and sequences of identity columns, which need no privilege.
RELATIONS = """
    SELECT relname::text, relkind::text FROM pg_class
    WHERE relnamespace = 'cache_sidecar'::regnamespace AND relkind IN ('r', 'p', 'v', 'S') AND NOT relispartition
      AND NOT (relkind = 'S' AND EXISTS (
          SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'i'))
    UNION ALL
    SELECT proname::text, 'f' FROM pg_proc
    WHERE pronamespace = 'cache_sidecar'::regnamespace AND prosecdef AND prorettype <> 'trigger'::regtype
    ORDER BY 1"""
# A row per privilege that a login role lacks, of those in four arrays: relation, its kind, privilege, column or ''.
LACKING = """
    SELECT privilege, string_agg(DISTINCT relation, ', ' ORDER BY relation)
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS needed (relation, kind, privilege, column_name),
         format('cache_sidecar.%%I', relation) AS path, (SELECT %s::name AS login) AS who
    WHERE NOT CASE WHEN kind = 'S' THEN has_sequence_privilege(login, path, privilege)
                   WHEN kind = 'f' THEN has_function_privilege(login, path::regproc::oid, privilege)
                   WHEN column_name <> '' THEN has_column_privilege(login, path, column_name, privilege)
                   ELSE has_table_privilege(login, path, privilege) END
    GROUP BY privilege ORDER BY privilege"""


def list_needs(rights: Rights, relations: Sequence[Relation]) -> tuple[list[str], list[str], list[str], list[str]]:
    """Returns the arrays for `LACKING`. A view of the shop's may be read-only: of the privileges on it, only SELECT."""
    rows = [
        (relation.name, relation.kind, privilege, column)
        for relation in relations
        for one in rights.on(relation)
        for privilege, column in _split(one)
        if relation.kind != "v" or privilege == "SELECT"
    ]
    names, kinds, privileges, columns = (list(array) for array in zip(*rows, strict=True)) if rows else ([], [], [], [])
    return names, kinds, privileges, columns


def _split(privilege: str) -> Iterator[tuple[str, str]]:
    if found := _COLUMNS.fullmatch(privilege):
        yield from ((found[1], column) for column in found[2].split(", "))
    else:
        yield privilege, ""


def grant_statements(role: str, kinds: Sequence[Rights], relations: Sequence[Relation]) -> Iterator[sql.Composed]:
    """Yields statements after which a role of PostgreSQL has these rights in the schema, and no others."""
    yield sql.SQL("GRANT USAGE ON SCHEMA cache_sidecar TO {}").format(sql.Identifier(role))
    for relation in relations:
        names = {
            "kind": sql.SQL(_KINDS.get(relation.kind, "TABLE")),
            "relation": sql.Identifier("cache_sidecar", relation.name),
            "role": sql.Identifier(role),
        }
        yield sql.SQL("REVOKE ALL ON {kind} {relation} FROM {role}").format(**names)
        for privilege in dict.fromkeys(one for rights in kinds for one in rights.on(relation)):
            yield sql.SQL("GRANT {privilege} ON {kind} {relation} TO {role}").format(privilege=sql.SQL(privilege), **names)


def grants(*, sidecar: str, relay: str) -> dict[str, list[Rights]]:
    """Returns the rights of the roles with these names, which may be one; an empty name is none."""
    found: dict[str, list[Rights]] = {}
    for role, rights in ((sidecar, SIDECAR), (relay, RELAY)):
        if role:
            found.setdefault(role, []).append(rights)
    return found
