"""Where Debian's Prometheus is."""

from pathlib import Path

import pytest

from tests.e2e.build import CannotBuild
from tests.monitoring import build


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with prometheus, promtool, prometheus-alertmanager and amtool."""
    try:
        return build.programs()
    except CannotBuild as error:
        pytest.skip(str(error))
