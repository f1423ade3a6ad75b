"""The generated code is what the protos say, and `make check` notices when it is not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
COMPILER = "build/client-stubs-compiler"
"Of the client's stubs; the first check installs it."


def check(project: Path) -> tuple[int, str]:
    command = [sys.executable, str(project / "protos/generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the protos and of the code generated from them."""
    shutil.copytree(PROJECT / "protos", tmp_path / "protos")
    ignored = shutil.ignore_patterns("__pycache__")
    code = ("cache_sidecar/v1", "tests/interop/protos", "tests/interop/grpc")
    clients = ("clients/protos", "clients/python/cache_sidecar_client/v1")
    for folder in (*code, *clients):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=ignored)
    (tmp_path / "build").mkdir()
    (tmp_path / COMPILER).symlink_to(PROJECT / COMPILER)
    return tmp_path


def test_it_is_up_to_date() -> None:
    assert check(PROJECT) == (0, "")


def test_a_change_of_any_kind_is_noticed(copy: Path) -> None:
    code = copy / "cache_sidecar/v1"
    changed, gone, stale = code / "product_pb2.py", code / "cache_pb2.pyi", code / "nothing_pb2.py"
    changed.write_text(changed.read_text() + "\n")
    gone.unlink()
    stale.write_text("")
    exit_code, said = check(copy)
    assert exit_code == 1
    lines = said.splitlines()
    assert len(lines) == 3
    for file in (changed, gone, stale):
        assert f"{file.relative_to(copy)} differs from the protos: run `make proto` and commit the result" in lines


def test_a_changed_proto_is_noticed_and_generating_heals_it(copy: Path) -> None:
    proto = copy / "protos/cache_sidecar/v1/cache.proto"
    proto.write_text(proto.read_text().replace("bool bypass = 2;", "bool bypass = 2;\n  bool other = 3;"))
    assert check(copy)[0] == 1
    subprocess.run([sys.executable, str(copy / "protos/generate.py")], check=True, timeout=60)
    assert check(copy) == (0, "")
    assert "other" in (copy / "cache_sidecar/v1/cache_pb2.pyi").read_text()
