"""What fits into the memory of a sidecar in Kubernetes, as it is divided among the datasets."""

import pytest

from cache_sidecar.datasets import ALL, PRODUCT
from cache_sidecar.devstack.catalogue import products
from cache_sidecar.injector.options import Options
from cache_sidecar.tiers.ports import PARTITIONS, Record
from cache_sidecar.v1.product_pb2 import Product
from cache_sidecar.v1.product_service_pb2 import GetProductResponse
from tests.support.engine_params import L1S, MakeL1, native_l1, needs_native

CATALOGUE, SAMPLE = 100_000, 2_000
SHARE = PRODUCT.memory / sum(spec.memory for spec in ALL)


def count_fitting(make: MakeL1, entries: dict[str, bytes]) -> int:
    """Returns how many entries like these fit into the products' part of memory."""
    l1 = make(max_bytes=int(Options().l1_bytes * SHARE), max_entries=CATALOGUE)
    for partition in range(PARTITIONS):
        l1.set_trusted(partition, True, now=0.0)
    for id, value in entries.items():
        assert l1.put(id, Record(1, 0.0, value), generation=l1.generation(id), expires_from=0.0)
    return int(Options().l1_bytes * SHARE / (l1.stats().bytes / len(entries)))


def entry(product: Product) -> bytes:
    product.create_time.seconds = product.update_time.seconds = 1_790_000_000
    product.create_time.nanos = product.update_time.nanos = 123_456_000
    product.etag = "1234567"
    return GetProductResponse(product=product).SerializeToString()


@pytest.mark.parametrize("make", L1S)
def test_the_demo_catalogue_fits(make: MakeL1) -> None:
    entries = {}
    for one in products(SAMPLE):
        price = {"units": one.price_units, "nanos": one.price_nanos, "currency_code": one.currency_code}
        fields = {
            name: getattr(one, name) for name in ("product_id", "title", "description", "categories", "brand", "image_uris")
        }
        entries[one.product_id] = entry(Product(price=price, attributes=one.attributes, active=one.active, **fields))
    assert count_fitting(make, entries) >= CATALOGUE


@needs_native
def test_a_catalogue_of_1_000_bytes_for_each_product_fits_the_native_engine() -> None:
    assert count_fitting(native_l1, {f"SKU-{number:06d}": bytes(1000) for number in range(SAMPLE)}) >= CATALOGUE
