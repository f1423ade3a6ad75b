"""The native engine is built where there is cargo. Everything else about the package stands in pyproject.toml."""

import os
import shutil
import sys

from setuptools import setup
from setuptools_rust import Binding, RustExtension

NATIVE = RustExtension(
    "cache_sidecar._native",
    "cache_sidecar/native/Cargo.toml",
    args=["--locked"],
    binding=Binding.PyO3,
    py_limited_api=True,
    optional=True,  # with a cargo that is too old, one line says so
    debug=False,
)
is_wanted = os.environ.get("NATIVE_ENGINE", "1") == "1"
if is_wanted and not shutil.which("cargo"):
    sys.stderr.write("cargo is not installed: the native engine is left out, and the sidecar runs on grpc.aio\n")
    is_wanted = False

# Without it the wheel is for any platform.
setup(
    rust_extensions=[NATIVE] if is_wanted else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if is_wanted else {},
)
