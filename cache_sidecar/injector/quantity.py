"""Kubernetes quantities: `250m`, `320Mi`. Format: k8s.io/apimachinery/pkg/api/resource, without exponents."""

import re
from decimal import Decimal

_SUFFIXES = {"m": Decimal("0.001"), "": Decimal(1)}
_SUFFIXES |= {suffix: Decimal(1000**power) for power, suffix in enumerate(["k", "M", "G", "T", "P", "E"], start=1)}
_SUFFIXES |= {suffix: Decimal(1024**power) for power, suffix in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], start=1)}
_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)(|m|k|[MGTPE]|[KMGTPE]i)", re.ASCII)


def parse(text: str) -> Decimal:
    """Returns cores or bytes. Raises ValueError with a message for users."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} must be a quantity, such as 250m or 320Mi")
    return Decimal(found[1]) * _SUFFIXES[found[2]]
