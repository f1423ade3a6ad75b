"""Builds the native engine if cargo is installed. All other metadata is in pyproject.toml."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist
from setuptools_rust import Binding, RustExtension

CRATE = Path("cache_sidecar/native")


class SourceDistribution(sdist):
    """Has the native engine's crate, which no wheel has."""

    def make_distribution(self) -> None:
        """Adds it to the files that there are anyway."""
        self.filelist.extend(map(str, [*CRATE.glob("Cargo.*"), *CRATE.glob("src/**/*.rs")]))
        super().make_distribution()


NATIVE = RustExtension(
    "cache_sidecar._native",
    str(CRATE / "Cargo.toml"),
    args=["--locked"],
    binding=Binding.PyO3,
    py_limited_api=True,
    optional=True,  # prints one line if cargo is too old
    debug=False,
)
is_wanted = os.environ.get("NATIVE_ENGINE", "1") == "1"
if is_wanted and not shutil.which("cargo"):
    sys.stderr.write("cargo is not installed: skipping the native engine, the sidecar will use grpc.aio\n")
    is_wanted = False

# Without the native engine, the wheel works on any platform.
setup(
    cmdclass={"sdist": SourceDistribution},
    rust_extensions=[NATIVE] if is_wanted else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if is_wanted else {},
)
