"""The modules of .github/release, a program of its own that the tests look into."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[2] / ".github" / "release"


def load(name: str) -> ModuleType:
    """Returns one of its modules."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
