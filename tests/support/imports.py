"""Imports as the command line runs them."""

from pathlib import Path
from typing import Any

from cache_sidecar.config import policy
from cache_sidecar.config.settings import Settings
from cache_sidecar.core.clock import Clock, SystemClock
from cache_sidecar.datasets import ALL
from cache_sidecar.importer.report import ImportReport
from cache_sidecar.importer.run import import_rows
from cache_sidecar.importer.spec import Parts

SPECS = {spec.imports.name: spec for spec in ALL if spec.imports is not None}


async def import_file(
    name: str, source: Path | str, dsn: str, *, clock: Clock | None = None, settings: Any = None, **options: Any
) -> ImportReport:
    """Imports a file; `settings` are those that differ from the defaults."""
    spec = SPECS[name]
    assert spec.imports is not None
    given = {"redis_nodes": ("localhost:1",), "postgres_catalog": "postgresql://localhost/shop"} | (settings or {})
    parts = Parts(settings=lambda: Settings(**given), policy=lambda: policy.default()[spec.name], clock=clock or SystemClock())
    defaults: dict[str, Any] = {"format": None, "rejects": None, "progress": None}
    return await import_rows(spec.imports, parts, source=str(source), dsn=dsn, **defaults | options)
