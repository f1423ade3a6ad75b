"""Lists of recommendations as CSV and JSON Lines: what is taken, and what is rejected with a reason."""

from typing import Any

import pytest

from cache_sidecar.importer.fields import MAX_ID_CHARACTERS
from cache_sidecar.importer.parsers import RowRejected
from cache_sidecar.importer.recommendations import MAX_PRODUCTS, from_csv, from_json
from cache_sidecar.recommendations.generator import Kind
from cache_sidecar.store.provided import Key
from cache_sidecar.v1 import recommendation_pb2 as pb
from cache_sidecar.v1.buf.validate import validate_pb2

FOR_YOU, TOGETHER = Kind.RECOMMENDED_FOR_YOU, Kind.FREQUENTLY_BOUGHT_TOGETHER
ANN = Key("ann", "", FOR_YOU)


def test_a_csv_row_is_a_list() -> None:
    cells = {"user_id": " ann ", "product_id": "", "model": "", "recommendations": "sofa| lamp |sofa", "scores": "2|1.5|9"}
    assert from_csv(cells) == {"key": ANN, "product_ids": ["sofa", "lamp"], "scores": [2.0, 1.5]}
    assert from_csv({"product_id": "sofa", "recommendations": "rug"}) == {
        "key": Key("", "sofa", TOGETHER),
        "product_ids": ["rug"],
        "scores": [0.0],
    }


@pytest.mark.parametrize("model", ["BEST_SELLERS", "RECOMMENDATION_MODEL_BEST_SELLERS"])
def test_a_json_object_is_a_list(model: str) -> None:
    products: list[Any] = ["sofa", {"productId": "lamp", "score": 0.5}, {"product_id": "rug", "score": None}]
    assert from_json({"userId": "ann", "model": model, "recommendations": products}) == {
        "key": Key("ann", "", Kind.BEST_SELLERS),
        "product_ids": ["sofa", "lamp", "rug"],
        "scores": [0.0, 0.5, 0.0],
    }


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"recommendations": ["sofa"]}, "missing_field"),
        ({"user_id": "ann", "product_id": "sofa", "recommendations": ["rug"]}, "missing_field"),
        ({"user_id": "ann"}, "missing_field"),
        ({"user_id": "ann", "recommendations": []}, "missing_field"),
        ({"user_id": "ann", "recommendations": [{}]}, "missing_field"),
        ({"user_id": "ann", "recommendations": [""]}, "missing_field"),
        ({"user_id": "ann", "recommendations": "sofa"}, "wrong_type"),
        ({"user_id": "ann", "recommendations": [1]}, "wrong_type"),
        ({"user_id": "ann", "recommendations": [{"product_id": 1}]}, "wrong_type"),
        ({"user_id": 1, "recommendations": ["sofa"]}, "wrong_type"),
        ({"user_id": "ann", "recommendations": [{"product_id": ["a", "b"]}]}, "wrong_type"),
        ({"user_id": "ann", "recommendations": [{"sku": "a"}]}, "unknown_field"),
        ({"user_id": "ann", "items": ["sofa"]}, "unknown_field"),
        ({"user_id": "ann", "recommendations": ["x" * (MAX_ID_CHARACTERS + 1)]}, "too_long"),
        ({"user_id": "x" * (MAX_ID_CHARACTERS + 1), "recommendations": ["sofa"]}, "too_long"),
        ({"user_id": "ann", "recommendations": ["so\tfa"]}, "control_character"),
        ({"user_id": "a\nnn", "recommendations": ["sofa"]}, "control_character"),
        ({"user_id": "ann", "recommendations": ["\ud800"]}, "not_unicode"),
        ({"user_id": "ann", "recommendations": ["x"] * (MAX_PRODUCTS + 1)}, "too_many"),
        ({"user_id": "ann", "model": "BEST", "recommendations": ["sofa"]}, "model"),
        ({"user_id": "ann", "model": 3, "recommendations": ["sofa"]}, "model"),
        ({"user_id": "ann", "recommendations": [{"product_id": "sofa", "score": "NaN"}]}, "scores"),
        ({"user_id": "ann", "recommendations": [{"product_id": "sofa", "score": True}]}, "scores"),
        ({"user_id": "ann", "recommendations": [{"product_id": "sofa", "score": [1]}]}, "scores"),
    ],
)
def test_an_object_that_is_no_list_is_rejected(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRejected) as raised:
        from_json(values)
    assert raised.value.reason == reason


@pytest.mark.parametrize("scores", ["1", "1|2|3", "1|x", "1|inf"])
def test_scores_of_a_row_are_as_many_as_its_products(scores: str) -> None:
    with pytest.raises(RowRejected) as raised:
        from_csv({"user_id": "ann", "recommendations": "sofa|lamp", "scores": scores})
    assert raised.value.reason == "scores"


def test_an_empty_cell_is_no_product() -> None:
    for cell in ("", "sofa||lamp", "|"):
        with pytest.raises(RowRejected) as raised:
            from_csv({"user_id": "ann", "recommendations": cell})
        assert raised.value.reason == "missing_field"


def test_the_limit_is_that_of_the_proto() -> None:
    field = pb.RecommendationList.DESCRIPTOR.fields_by_name["recommendations"]
    assert field.GetOptions().Extensions[validate_pb2.field].repeated.max_items == MAX_PRODUCTS
