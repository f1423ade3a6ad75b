"""The commands `cache-sidecar import NAME` follow from the list of datasets."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache_sidecar import datasets
from cache_sidecar.cli import cli
from cache_sidecar.importer import products


def test_a_dataset_with_an_import_has_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    gift = replace(datasets.PRODUCT, name="gift", imports=replace(products.IMPORT, name="gifts", description="gift cards"))
    monkeypatch.setattr(datasets, "ALL", (*datasets.ALL, gift))
    shown = CliRunner().invoke(cli, ["import", "gifts", "--help"])
    assert "Import gift cards from FILE" in shown.output
    assert "csv, jsonl, online-retail" in shown.output


def test_one_without_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "ALL", [replace(spec, imports=None) for spec in datasets.ALL])
    shown = CliRunner().invoke(cli, ["import", "--help"])
    assert "products" not in shown.output
    assert CliRunner().invoke(cli, ["import", "products", "file.csv"]).exit_code == 64


def test_a_dry_run_needs_no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CACHE_SIDECAR_POSTGRES_CATALOG", raising=False)
    file = tmp_path / "products.csv"
    file.write_text("product_id,title,price,currency_code\nA,a,1,EUR\n")
    done = CliRunner().invoke(cli, ["import", "products", str(file), "--dry-run"])
    assert (done.exit_code, "1 products can be imported" in done.output) == (0, True), done.output
    # What is missing is known only to PostgreSQL.
    done = CliRunner().invoke(cli, ["import", "products", str(file), "--dry-run", "--delete-missing"])
    assert (done.exit_code, "postgres_catalog is not set" in done.output) == (64, True), done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "products", "x.csv", "--max-deleted", "nan"],
        ["advise", "--seconds", "nan"],
        ["top", "--interval", "nan"],
        ["get", "x", "--max-age", "nan"],
    ],
)
def test_what_is_no_number_is_within_no_range(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, "is not in the range" in done.output) == (64, True), done.output
