"""Which tests `make test` leaves to `make test-long`: one list, so that every test is in exactly one of the two."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LONG = (
    # Attacks, floods and thousands of generated requests.
    "contract/hostile",
    "contract/test_hostile_bombs.py",
    "contract/test_hostile_fuzz.py",
    "contract/test_hostile_readers.py",
    # A Kubernetes API server, and what else is built from Go modules.
    "e2e",
    # Servers that die under load. What a sidecar does without Redis or PostgreSQL is in integration and contract, too.
    "failure",
    # Programs in other languages.
    "interop",
    # The image's steps, and both wheels: compiled.
    "injector/test_image.py",
    "integration/test_wheels.py",
    # Every two calls, the second at each statement of the first.
    "integration/test_pairs.py",
)
"Folders and files; whatever is put into such a folder is long."


def is_long(file: Path) -> bool:
    """Says whether a file's tests are long."""
    return any(file.is_relative_to(TESTS / name) for name in LONG)


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known."""
    config.addinivalue_line("markers", "long: not in `make test`; tests/suites.py says which")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks them, and says what xdist has to leave together."""
    for item in items:
        if is_long(item.path):
            item.add_marker(pytest.mark.long)
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """Returns the file; of tests on both engines the folder and the engine, as they share sidecars that run on it."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return f"{item.path.parent.name}-{params['engine']}" if "engine" in params else item.nodeid.partition("::")[0]
