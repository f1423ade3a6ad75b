"""`cache-sidecar estimate`: the example, what changes in it do, and files that are wrong."""

import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cache_sidecar.cli import cli
from cache_sidecar.core.errors import InputError
from cache_sidecar.estimate.formulas import popularity, read_products
from cache_sidecar.estimate.inputs import EXAMPLE, Inputs, read
from cache_sidecar.estimate.report import MIB, Report, estimate


def with_changes(**changes: Any) -> Report:
    """Returns the report of the example with changes, such as `shop__products=5`."""
    found = tomllib.loads(EXAMPLE.read_text())
    for name, value in changes.items():
        table, _, key = name.partition("__")
        assert key in found[table]
        found[table][key] = value
    return estimate(Inputs.model_validate(found))


def test_the_example_has_the_strategy_s_figures() -> None:
    shop = read(EXAMPLE).shop
    assert (shop.products, shop.daily_users, shop.regions) == (100_000, 50_000, 3)
    printed = CliRunner().invoke(cli, ["estimate", "--example"], standalone_mode=False)
    assert printed.output == EXAMPLE.read_text()
    lines = CliRunner().invoke(cli, ["estimate", str(EXAMPLE)], standalone_mode=False).output.splitlines()
    assert lines[0] == "100,000 products, 50,000 users a day, 3 regions with 6 pods each"
    for name in (
        "memory of a sidecar",
        "Redis in a region",
        "PostgreSQL reads a month",
        "cost a month",
        "saving a month",
        "payback",
    ):
        assert [line for line in lines if line.startswith(name)], name


def test_popularity_is_all_of_the_reads_and_of_the_products() -> None:
    for products, skew in ((1, 1.0), (999, 0.0), (100_000, 0.9), (12_345_678, 1.2)):
        groups = popularity(products, skew)
        assert sum(count for _, count in groups) == products
        assert sum(share * count for share, count in groups) == pytest.approx(1)
        assert all(first.share >= second.share for first, second in pairwise(groups))


def test_groups_of_products_change_nothing_that_matters() -> None:
    total = sum(rank**-0.9 for rank in range(1, 20_001))
    exact = [type(popularity(1, 1)[0])(rank**-0.9 / total, 1) for rank in range(1, 20_001)]
    times: dict[str, Any] = {"pods": 3, "soft": 240, "hard": 300, "l2_ttl": 3600, "capacity": 5000}
    grouped, alone = read_products(popularity(20_000, 0.9), 100, **times), read_products(exact, 100, **times)
    assert grouped == pytest.approx(alone, rel=0.005)


def test_reads_of_nothing_cost_nothing() -> None:
    report = with_changes(shop__product_reads_per_user=0)
    assert (report.mean.store, report.mean.l2, report.l1_bytes) == (0, 0, 0)


def test_memory_is_never_more_than_what_is_set() -> None:
    small = with_changes(deployment__l1_mib=8, shop__product_reads_per_user=20_000)
    large = with_changes(shop__product_reads_per_user=20_000)
    assert small.l1_bytes <= 8 * MIB * 1.001
    assert small.mean.l1_hit_ratio < large.mean.l1_hit_ratio
    assert large.l1_bytes <= 160 * MIB


def test_more_of_what_is_held_takes_more() -> None:
    base = with_changes()
    assert with_changes(bytes__product=1200).l1_bytes > 1.5 * base.l1_bytes
    assert with_changes(bytes__cart=40_000).redis_nodes > base.redis_nodes
    assert with_changes(ttl__l2=60).statements_after > base.statements_after
    assert with_changes(deployment__pods_per_region=12).cost > base.cost
    assert with_changes(prices__other_saving=0, prices__postgres_core=0).payback_months is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x", "Expected"),
        ("[shop]\nproducts = 0\n", "shop.products: Input should be greater than or equal to 1"),
        (EXAMPLE.read_text().replace("skew = 0.9", "skow = 0.9"), "shop.skew: Field required"),
        (EXAMPLE.read_text().replace("peak = 4.0", "peak = nan"), "shop.peak: Input should be"),
        (EXAMPLE.read_text() + "\nextra = 1\n", "prices.extra: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
