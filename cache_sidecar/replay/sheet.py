"""The figures of a replay as a file for `cache-sidecar estimate`."""

import re
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from cache_sidecar.estimate import inputs
from cache_sidecar.replay.order_file import LIST, Shop, Visit
from cache_sidecar.replay.run import Options
from cache_sidecar.replay.shopper import Kind, decide
from cache_sidecar.replay.tables import PAGE_SIZE

_DAY = 86_400
_RANKS = 1000
_SECTION, _VALUE = re.compile(r"\[(\w+)\]"), re.compile(r"(\w+) = (\S+)(.*)")


def text(shop: Shop, visits: Sequence[Visit], options: Options, found: Mapping[str, Any]) -> str:
    """Returns the example of `estimate` with what was measured in it, and marked; all else are still its assumptions."""
    measured = {name: _number(value) for name, value in figures(shop, visits, options, found).items()}
    made, section = [], ""
    for line in inputs.EXAMPLE.read_text(encoding="utf-8").splitlines():
        if opening := _SECTION.fullmatch(line.partition("#")[0].strip()):
            section = opening[1]
        elif (assigned := _VALUE.match(line)) and (section, assigned[1]) in measured:
            line = f"{assigned[1]} = {measured[section, assigned[1]]}  # from the replay"  # noqa: PLW2901
        made.append(line)
    return "\n".join(["# From a replay of orders: what is not marked as from it is an assumption.", *made[2:]]) + "\n"


def figures(shop: Shop, visits: Sequence[Visit], options: Options, found: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """Returns what was measured, by section and name."""
    steps = [step.kind for visit in visits for step in decide(visit, shop, options.habits).steps]
    pages = len(steps) - steps.count(Kind.ADD)
    count = len(visits)
    days = max(1.0, shop.visits[-1].time / _DAY)
    products = steps.count(Kind.PRODUCT) * (1 + LIST) + steps.count(Kind.HOME) * LIST + steps.count(Kind.CATEGORY) * PAGE_SIZE
    values = {
        ("shop", "products"): float(len(shop.products)),
        ("shop", "daily_users"): float(max(1, round(len(shop.visits) / days))),
        ("shop", "regions"): 1.0,
        ("shop", "skew"): min(3.0, skew(shop)),
        ("shop", "product_reads_per_user"): products / count,
        ("shop", "session_reads_per_user"): pages / count,
        ("shop", "cart_reads_per_user"): pages / count,
        ("shop", "stock_reads_per_user"): steps.count(Kind.PRODUCT) / count,
        ("shop", "sessions_per_user"): 1.0,
        ("shop", "carts_per_user"): 1.0,
        ("deployment", "pods_per_region"): float(options.plan.sidecars),
    }
    arms = found["arms"]
    if sidecar := arms.get("sidecar"):
        spent = sidecar["cpu_ms_per_page"]["sidecars"] * sidecar["pages"] / 1000
        # Session and cart with every page, stock and product with that of a product, and its list with that of the list.
        calls = pages * 3 + steps.count(Kind.PRODUCT) * 3 + steps.count(Kind.HOME)
        if spent > 0:
            values["deployment", "calls_per_core"] = calls / spent
    if direct := arms.get("direct"):
        spent = direct["cpu_ms_per_page"]["postgresql"] * direct["pages"] / 1000
        if spent > 0:
            values["deployment", "postgres_statements_per_core"] = (
                direct["statements_per_page"]["all"] * direct["pages"] / spent
            )
    return values


def skew(shop: Shop) -> float:
    """Returns the exponent of Zipf's law that fits how often products were bought: by least squares of logarithms."""
    counts = sorted((late - early for early, late in zip([0, *shop.weights], shop.weights, strict=False)), reverse=True)[
        :_RANKS
    ]
    points = [(log(rank), log(count)) for rank, count in enumerate(counts, 1) if count > 0]
    if len(points) < 2:
        return 0.0
    x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    slope: float = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
    return max(0.0, -slope)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3f}"
