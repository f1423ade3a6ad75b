"""No function is named by a past participle: a name says what a call does (`refresh`) or returns (`expired_keys`), not what was done."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ("cache_sidecar/v1/",)
NO_PARTICIPLES = {"bed", "embed", "exceed", "feed", "hundred", "need", "proceed", "red", "seed", "shed", "speed", "succeed"}
IRREGULAR = set(
    "been begun bitten born borne bought broken brought built caught chosen come done drawn driven eaten fallen felt forgotten "  # noqa: SIM905
    "fought found frozen given gone got grown heard held hidden kept known laid led left lent lost made meant met paid proven ridden "
    "risen said seen sent shaken shown slept sold spent spoken stolen stood struck stuck sunk swept taken taught thought thrown told "
    "torn understood unseen woken won worn written".split()
)
"Without those that are also a verb's base form: `put`, `read`, `run`, `set`."

GIVEN = {
    "cache_sidecar/server/engines/native.py: cancelled": "grpc.aio.ServicerContext names it",
}
"Functions that other libraries name."


def is_participle(word: str) -> bool:
    """Says whether a word is a past participle and no base form of a verb."""
    return word in IRREGULAR or (word.endswith("ed") and word not in NO_PARTICIPLES)


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yields every function and method of the package with the path of its file; generated code is left out."""
    for file in sorted((ROOT / "cache_sidecar").rglob("*.py")):
        path = file.relative_to(ROOT).as_posix()
        if not path.startswith(GENERATED):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield path, node


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Says whether a function is read like an attribute, whose name may be a participle: `rejects.written`."""
    return any(
        ast.unparse(decorator).split(".")[-1] in {"property", "cached_property", "setter"}
        for decorator in function.decorator_list
    )


def misnamed() -> set[str]:
    """Returns the functions whose name begins with a participle, as `file: name`."""
    return {
        f"{path}: {function.name}"
        for path, function in functions()
        if is_participle(function.name.strip("_").partition("_")[0]) and not is_property(function)
    }


def test_no_function_is_named_by_a_participle() -> None:
    assert misnamed() - GIVEN.keys() == set()


def test_what_is_excused_exists() -> None:
    assert GIVEN.keys() - misnamed() == set()


@pytest.mark.parametrize("word", ["told", "changed", "refreshed", "written", "heard", "admitted", "found"])
def test_participles_are_found(word: str) -> None:
    assert is_participle(word)


@pytest.mark.parametrize("word", ["tell", "need", "feed", "read", "put", "set", "token", "listen", "open"])
def test_base_forms_and_nouns_are_not(word: str) -> None:
    assert not is_participle(word)


def test_no_helper_of_the_tests_is_called_as_a_module_of_the_product() -> None:
    product = {file.stem for file in (ROOT / "cache_sidecar").rglob("*.py")} | {
        folder.name for folder in (ROOT / "cache_sidecar").rglob("*/") if (folder / "__init__.py").exists()
    }
    helpers = {file.stem for folder in ("tests", "tests/support") for file in (ROOT / folder).glob("*.py")}
    assert helpers & product == {"__init__"}
