"""The demo catalogue: the same everywhere, and like a shop's."""

import hashlib
import json
import statistics
from itertools import pairwise

import protovalidate

from cache_sidecar.devstack import catalogue
from cache_sidecar.devstack.catalogue import DemoProduct, products
from cache_sidecar.v1.product_pb2 import Product
from tests.support import inside

SOME = list(products(2000))


def message(product: DemoProduct) -> Product:
    """The product as a reply carries it."""
    values = product._asdict()
    units, nanos, currency = (values.pop(name) for name in ("price_units", "price_nanos", "currency_code"))
    found = Product(**values, etag="0000000000000001")
    found.price.units, found.price.nanos, found.price.currency_code = units, nanos, currency
    found.create_time.FromMilliseconds(1_767_225_600_123)
    found.update_time.FromMilliseconds(1_767_225_600_123)
    return found


def test_a_seed_gives_the_same_products_on_every_machine_and_python() -> None:
    # Changed words change it: then every demo database that is filled keeps its own.
    text = json.dumps(SOME)
    assert hashlib.sha256(text.encode()).hexdigest() == "014eafe95fd90d086580e0e413211490f18443d503e307a7c4625fc387e468ec"


def test_a_longer_catalogue_begins_with_the_shorter_one() -> None:
    assert list(products(10)) == SOME[:10]
    assert list(products(10, seed=7)) == list(products(10, seed=7)) != SOME[:10]


def test_ids_count_up_from_the_first() -> None:
    assert SOME[0].product_id == catalogue.FIRST_PRODUCT_ID == "SKU-000001"
    assert all(earlier.product_id < later.product_id for earlier, later in pairwise(SOME))


def test_all_products_pass_the_rules_of_the_proto() -> None:
    for product in SOME:
        protovalidate.validate(message(product))


def test_a_serialized_product_has_the_size_of_a_real_one() -> None:
    sizes = [message(product).ByteSize() for product in SOME]
    assert 450 <= statistics.mean(sizes) <= 650
    assert max(sizes) < 1000


def test_products_look_like_a_shops() -> None:
    assert {product.price_nanos for product in SOME} == {990_000_000, 500_000_000}
    assert all(3 <= product.price_units < 500 for product in SOME)
    assert {len(product.categories) for product in SOME} == {1, 2, 3}
    assert {len(product.image_uris) for product in SOME} == {1, 2, 3}
    assert {product.description.count(".") for product in SOME} >= {1, 2, 3}
    assert len({product.title for product in SOME}) > 0.95 * len(SOME)
    assert len({category for product in SOME for category in product.categories}) < 40


def test_one_product_in_fifty_is_not_sold() -> None:
    assert sum(not product.active for product in SOME) == len(SOME) // 50


def test_every_shelf_stocks_its_own() -> None:
    for product in SOME:
        paths = [category for category in product.categories if " > " in category]
        assert len(paths) == 1
        assert product.attributes["material"] in product.title
        assert product.brand in inside.brands_of(catalogue)
