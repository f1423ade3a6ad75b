"""Full text search for products in PostgreSQL. SQL only; see migrations/catalog/0012 and decision 8."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from cache_sidecar.core.errors import Failure, Tier, TierFailed
from cache_sidecar.store.database import Database

# Products that are ranked and counted, products of these that are kept, and values of a facet.
MATCHES, DEPTH, FACET_VALUES = 10_000, 500, 50
CATEGORIES, BRAND, ATTRIBUTES = "categories", "brand", "attributes."
"The names of facets; the last one is followed by the key of an attribute."
# What has the values of a column, as rows.
_VALUES = {
    "categories": "unnest(categories) AS value",
    "brand": "LATERAL (SELECT brand AS value) AS of_brand",
    "attributes": "LATERAL (SELECT attributes ->> %s AS value) AS of_key",
}


class Words(NamedTuple):
    """What a text asks for: the products that match `either`, or `rest` together with the word that begins with `beginning`."""

    either: str
    rest: str
    "Both in the syntax of websearch_to_tsquery; empty texts ask for nothing."
    beginning: str
    "Empty if no word is incomplete."


class Search(NamedTuple):
    """What is searched for; empty filters admit every product."""

    words: Words
    categories: Sequence[str]
    brands: Sequence[str]
    currency_code: str
    "Of the prices; empty if there are none."
    min_price: Decimal | None
    max_price: Decimal | None
    attributes: Sequence[tuple[str, Sequence[str]]]
    "Keys with their accepted values."
    facets: Sequence[str]


class Found(NamedTuple):
    """A result."""

    matches: int
    "Products that match; MATCHES + 1 if there are more than MATCHES."
    products: Sequence[tuple[str, int]]
    "The best of them: their ids with the versions that were searched, the most relevant first."
    facets: Mapping[str, Sequence[tuple[str, int]]]
    "By name, the most frequent values with their counts."


class ProductSearchStore:
    """Searches for products."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, search: Search) -> Found:
        """Searches by one statement. Raises TierFailed, also until the products have been indexed once."""
        rows = await self._database.fetch(*statement(search))
        (_, _, _, language, _), *counted = rows
        if not language:
            raise TierFailed(
                Tier.STORE, Failure.REFUSED, "products are being indexed for searches: this needs a relay, and time"
            )
        matches = 0
        products: list[tuple[str, int]] = []
        facets: dict[str, list[tuple[str, int]]] = {name: [] for name in search.facets}
        for kind, _, name, value, number in counted:
            if kind == 1:
                matches = number
            elif kind == 2:
                products.append((value, number))
            else:
                facets[name].append((value, number))
        return Found(matches, products, facets)

    async def index(self, at_most: int) -> int:
        """Brings the documents of some products up to date; returns of how many, 0 if none is left. Raises TierFailed."""
        ((done,),) = await self._database.fetch("SELECT cache_sidecar.index_products(%s)", [at_most])
        return int(done)


def statement(search: Search) -> tuple[str, Sequence[Any]]:
    """Returns a statement with its parameters. Its rows: a kind, a place, a name, a value, a number.

    Kind 0 has the language, empty if products are not indexed; 1 the number of matches; 2 the products by rank with their
    versions; 3 the values of facets with their counts.

    `LIMIT` comes before the ranking: what a common word matches is not ranked as a whole. The query is a scalar, so the plan
    does not depend on how many rows PostgreSQL takes `asked` to have.
    """
    words = search.words
    beginning = f"{_quote(words.beginning)}:*" if words.beginning else ""
    parameters: list[Any] = [words.either, words.rest, beginning, beginning]
    conditions = ["true"]
    filters: Iterable[tuple[str, Sequence[Any]]] = (
        ("d.categories && %s::text[]", [search.categories] if search.categories else []),
        ("d.brand = ANY(%s::text[])", [search.brands] if search.brands else []),
        ("d.currency_code = %s", [search.currency_code] if search.currency_code else []),
        ("d.price >= %s", [search.min_price] if search.min_price is not None else []),
        ("d.price <= %s", [search.max_price] if search.max_price is not None else []),
        *(("d.attributes ->> %s = ANY(%s::text[])", [name, accepted]) for name, accepted in search.attributes),
    )
    for condition, values in filters:
        if values:
            conditions.append(condition)
            parameters += values
    counts, columns = [], {"product_id", "version"}
    for name in search.facets:
        if name in {CATEGORIES, BRAND}:
            column, key = name, []
        else:
            column, key = "attributes", [name.removeprefix(ATTRIBUTES)]
        source = _VALUES[column]
        counts.append(f"""UNION ALL (
            SELECT 3, row_number() OVER (ORDER BY count(DISTINCT product_id) DESC, value COLLATE "C"), %s::text,
                   value COLLATE "C", count(DISTINCT product_id)
            FROM matches, {source} WHERE value <> '' GROUP BY value ORDER BY 2 LIMIT {FACET_VALUES})""")
        columns.add(column)
        parameters += [name, *key]
    text = f"""WITH state AS MATERIALIZED (
            SELECT language::regconfig AS language, is_complete FROM cache_sidecar.product_search_state
        ), asked AS MATERIALIZED (
            SELECT websearch_to_tsquery(language, %s)
                   || (websearch_to_tsquery(language, %s) && (to_tsquery(language, %s) || to_tsquery('simple', %s))) AS query
            FROM state WHERE is_complete
        ), matches AS MATERIALIZED (
            SELECT {", ".join(sorted(columns))}, ts_rank(document, (SELECT query FROM asked), 1) AS relevance
            FROM cache_sidecar.product_documents AS d
            WHERE document @@ (SELECT query FROM asked) AND (SELECT querytree(query) NOT IN ('', 'T') FROM asked)
              AND {" AND ".join(conditions)}
            LIMIT {MATCHES + 1}
        )
        SELECT 0 AS kind, 0::bigint AS place, '' AS name, CASE WHEN is_complete THEN language::text ELSE '' END AS value,
               0::bigint AS number
        FROM state
        UNION ALL SELECT 1, 0, '', '', count(*) FROM matches
        UNION ALL (SELECT 2, row_number() OVER (ORDER BY relevance DESC, product_id), '', product_id, version
                   FROM matches ORDER BY 2 LIMIT {DEPTH})
        {" ".join(counts)}
        ORDER BY kind, place"""
    return text, parameters


def _quote(word: str) -> str:
    """Returns a word as an operand of to_tsquery, which it cannot leave."""
    escaped = word.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
