"""The archives of the fuzz corpus: one for each target, and packing what is in them writes the same bytes."""

import importlib.util
import re
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "cache_sidecar/native/fuzz"
TARGETS = sorted(file.stem for file in (FUZZ / "fuzz_targets").glob("*.rs"))

spec = importlib.util.spec_from_file_location("fuzz_corpus", FUZZ / "corpus.py")
assert spec is not None
assert spec.loader is not None
corpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(corpus)


def test_every_target_has_one_and_is_fuzzed() -> None:
    assert sorted(file.name for file in (FUZZ / "corpus").iterdir()) == [f"{target}.tar" for target in TARGETS]
    makefile = (FUZZ.parents[2] / "Makefile").read_text()
    (fuzzed,) = re.findall(r"for target in (.*); do", makefile)
    assert sorted(fuzzed.split()) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_packing_it_again_writes_the_same(tmp_path: Path, target: str) -> None:
    archive = FUZZ / f"corpus/{target}.tar"
    corpus.unpack(archive, tmp_path / target)
    assert len(list((tmp_path / target).iterdir())) > 5
    corpus.pack(tmp_path / target, tmp_path / "packed.tar")
    assert (tmp_path / "packed.tar").read_bytes() == archive.read_bytes()
