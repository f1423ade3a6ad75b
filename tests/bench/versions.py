"""Another version of the project in a folder of its own, to be compared with this one."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.bench.processes import BenchError

ROOT = Path(__file__).parents[2]
_NATIVE = "cache_sidecar/native"


def unpacked(ref: str, into: Path) -> Path:
    """Returns the folder with a commit's code, with the native engine where this version has it; made once per commit.

    The packages it runs on are those of this environment: what a commit changed about them is not compared.
    Raises BenchError when there is no such commit, or its native engine cannot be built.
    """
    commit = _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", says=f"there is no commit {ref!r}").decode().strip()
    into.mkdir(parents=True, exist_ok=True)
    folder = into.absolute() / commit[:12]
    if folder.exists():
        return folder
    # Under another name until it is complete.
    with (
        tempfile.TemporaryDirectory(dir=into) as unfinished,
        tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive,
    ):
        made = Path(unfinished).absolute() / "code"
        archive.extractall(made, filter="data")
        for extension in (ROOT / "cache_sidecar").glob("_native*.so"):
            shutil.copy(_built(commit, made, into) or extension, made / "cache_sidecar" / extension.name)
        made.rename(folder)
    return folder


def _built(commit: str, code: Path, into: Path) -> Path | None:
    """Returns the native engine of a commit; None if it is the same as this version's."""
    if subprocess.run(["git", "diff", "--quiet", commit, "--", _NATIVE], cwd=ROOT, check=False).returncode == 0:
        return None
    target = into.absolute() / "cargo"
    command = ["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", code / _NATIVE / "Cargo.toml"]
    environment = os.environ | {"CARGO_TARGET_DIR": str(target), "PYO3_PYTHON": sys.executable}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise BenchError(f"the native engine of {commit[:12]} cannot be built")
    name = "lib_native.dylib" if sys.platform == "darwin" else "lib_native.so"
    return target / "release" / name


def _git(*arguments: str, says: str = "git failed") -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise BenchError(says)
    return done.stdout
