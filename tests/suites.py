"""Which tests `make test` leaves to `make test-long`: one list, so that every test is in exactly one of the two."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LONG = (
    # Debian's Chromium, which looks at the pages.
    "browser",
    # Attacks, floods and thousands of generated requests.
    "contract/hostile",
    "contract/test_hostile_bombs.py",
    "contract/test_hostile_fuzz.py",
    "contract/test_hostile_readers.py",
    # Client libraries, in several languages and in environments of their own.
    "clients",
    # A Kubernetes API server and other programs built from Go modules.
    "e2e",
    # Servers that die under load. The integration and contract tests also cover sidecars without Redis or PostgreSQL.
    "failure",
    # Containers, after `make image`.
    "image",
    # Programs in other languages.
    "interop",
    # Debian's Prometheus and Alertmanager, and alerts that have to fire.
    "monitoring",
    # Both wheels: compiled.
    "integration/test_wheels.py",
    # A hundred thousand rows.
    "integration/test_recommendations_size.py",
    # Three shops with servers of their own, and faults.
    "integration/test_replay.py",
    # The processes of many pods.
    "integration/test_pod_life.py",
    # Every two calls, the second at each statement of the first.
    "integration/test_pairs.py",
)
"Folders and files; everything in such a folder is long."


def is_long(file: Path) -> bool:
    """Returns whether a file's tests are long."""
    return any(file.is_relative_to(TESTS / name) for name in LONG)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line("markers", "long: not in `make test`; tests/suites.py says which")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the long tests."""
    for item in items:
        if is_long(item.path):
            item.add_marker(pytest.mark.long)
