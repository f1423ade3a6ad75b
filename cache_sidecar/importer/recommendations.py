"""Imports lists that the shop computed itself: a row or an object is a list."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cache_sidecar.importer.fields import MAX_ID_CHARACTERS, check_id, fields_of
from cache_sidecar.importer.parsers import RowRejected, short
from cache_sidecar.importer.record_reader import CSV, JSON_LINES, Header
from cache_sidecar.importer.spec import ImportSpec, TableRow
from cache_sidecar.recommendations.generator import Kind
from cache_sidecar.store.bulk import BulkRecommendations
from cache_sidecar.store.provided import Key

# The limit of protos/cache_sidecar/v1/recommendation.proto; tests/unit/test_recommendation_import.py compares the two.
MAX_PRODUCTS = 500
# Separates products, and scores, in a CSV cell.
SEPARATOR = "|"
CSV_HEADER = Header(
    dict.fromkeys(("recommendations", "user_id", "product_id", "model", "scores"), ()), required=("recommendations",)
)
_FIELDS = ("user_id", "product_id", "model", "recommendations")
_PRODUCT_FIELDS = ("product_id", "score")
_NAMED_AS_IN_PROTO = frozenset(_PRODUCT_FIELDS)
_PREFIX = "RECOMMENDATION_MODEL_"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def from_csv(cells: Mapping[str, str]) -> TableRow:
    """Returns the list of a CSV row. Raises RowRejected."""
    values = {name: cell.strip() for name, cell in cells.items()}
    product_ids = [id.strip() for id in values["recommendations"].split(SEPARATOR)] if values["recommendations"] else []
    scores = [_score(score.strip()) for score in values["scores"].split(SEPARATOR)] if values.get("scores") else None
    if scores is not None and len(scores) != len(product_ids):
        raise RowRejected("scores", f"has {len(product_ids)} recommendations, but {len(scores)} scores")
    return _list(values, product_ids, scores or [0.0] * len(product_ids))


def from_json(value: Mapping[str, Any]) -> TableRow:
    """Returns the list of a JSON object, named as in the proto or its JSON mapping; a product may be just its id.

    Raises RowRejected.
    """
    values = fields_of(value, known=_FIELDS)
    given = values.get("recommendations", [])
    if not isinstance(given, list):
        raise RowRejected("wrong_type", f"recommendations must be a list, not {short(given)}")
    products = [({"product_id": one} if isinstance(one, str) else _product(one)) for one in given]
    return _list(values, [one.get("product_id") for one in products], [_score(one.get("score")) for one in products])


def _product(one: Any) -> dict[str, Any]:
    if not isinstance(one, dict):
        raise RowRejected("wrong_type", f"recommendations must be product ids or objects, not {short(one)}")
    # Most are named as in the proto, and there are fifty in a list.
    return one if one.keys() <= _NAMED_AS_IN_PROTO else fields_of(one, known=_PRODUCT_FIELDS)


def _list(values: Mapping[str, Any], product_ids: Sequence[Any], scores: Sequence[float]) -> TableRow:
    user_id, product_id = (values.get(name) or "" for name in ("user_id", "product_id"))
    if (user_id == "") == (product_id == ""):
        raise RowRejected("missing_field", "must have either a user_id or a product_id")
    for name, id in (("user_id", user_id), ("product_id", product_id)):
        if id != "":
            check_id(name, id)
    default = Kind.RECOMMENDED_FOR_YOU if user_id else Kind.FREQUENTLY_BOUGHT_TOGETHER
    key = Key(user_id, product_id, _model(values.get("model")) or default)
    if not product_ids:
        raise RowRejected("missing_field", "has no recommendations")
    if len(product_ids) > MAX_PRODUCTS:
        raise RowRejected("too_many", f"has {len(product_ids):,} recommendations; the maximum is {MAX_PRODUCTS}")
    _check_ids(product_ids)
    best: dict[str, float] = {}
    for id, score in zip(product_ids, scores, strict=True):
        best.setdefault(id, score)
    return {"key": key, "product_ids": list(best), "scores": list(best.values())}


def _check_ids(ids: Sequence[Any]) -> None:
    """Raises RowRejected if one is no id; all at once, as there are fifty million of them in a million lists."""
    try:
        lengths = list(map(len, ids))
        is_fine = min(lengths) > 0 and max(lengths) <= MAX_ID_CHARACTERS and not _UNPRINTABLE.search("".join(ids))
    except TypeError:
        is_fine = False
    if not is_fine:
        for id in ids:
            check_id("product_id of its recommendations", id)


def _model(given: Any) -> Kind | None:
    """Returns a model by its name in the API, or without the prefix of that; None if there is none."""
    if given is None or given == "":
        return None
    name = given.removeprefix(_PREFIX) if isinstance(given, str) else ""
    if name not in Kind.__members__:
        raise RowRejected("model", f"model must be one of {', '.join(Kind)}, not {short(given)}")
    return Kind(name)


def _score(given: Any) -> float:
    if given is None:
        return 0.0
    try:
        score = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise RowRejected("scores", f"a score must be a number, not {short(given)}")
    return score


IMPORT = ImportSpec(
    name="recommendations",
    description="lists of recommendations that take the place of those imported before, all at once,",
    bulk=BulkRecommendations,
    headers={CSV: CSV_HEADER},
    parsers=lambda _: {CSV: from_csv, JSON_LINES: from_json},
)
