"""A release: what it refuses, its notes, its provenance, and archives that are the same each time."""

import hashlib
import json
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cache_sidecar import __version__
from tests.support import release

ROOT = Path(__file__).parents[2]
archives: Any = release.load("archives")
changelog: Any = release.load("changelog")
provenance: Any = release.load("provenance")
refusals: Any = release.load("refusals")
versions: Any = release.load("versions")

CHANGES = "# Changelog\n\n## Unreleased\n\n## 2.0.0 - 2026-11-30\n\n### Added\n\n- A.\n\n## 1.0.0 - 2026-01-01\n\n- B.\n"


def test_the_section_of_a_version_is_between_its_heading_and_the_next() -> None:
    assert changelog.section(CHANGES, "2.0.0") == "### Added\n\n- A."
    assert changelog.section(CHANGES, "1.0.0") == "- B."
    for version in ("3.0.0", "2.0", "2x0.0", "Unreleased"):
        assert changelog.section(CHANGES, version) == ""


def test_this_version_has_one() -> None:
    assert changelog.section((ROOT / "CHANGELOG.md").read_text(), __version__)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with the files that have the version, and the changelog."""
    for file in {ROOT / versions.SOURCE, ROOT / "CHANGELOG.md", *(found.file for found in versions.find_all())}:
        new = tmp_path / file.relative_to(ROOT)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, new)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "All")
    return tmp_path


def test_what_is_committed_and_described_can_be_released(project: Path) -> None:
    assert refusals.refuse(project) == ""


def test_a_dirty_tree_is_refused(project: Path) -> None:
    (project / "new").write_text("")
    assert refusals.refuse(project) == "the tree is dirty: commit or remove new"
    (project / "CHANGELOG.md").write_text("")
    assert refusals.refuse(project) == "the tree is dirty: commit or remove CHANGELOG.md and others"


def test_a_version_without_a_section_is_refused(project: Path) -> None:
    versions.write(project, "9.9.9")
    git(project, "commit", "-qam", "Next")
    assert refusals.refuse(project) == "CHANGELOG.md has no section '## 9.9.9 - YYYY-MM-DD' with anything in it"


def test_versions_that_disagree_are_refused(project: Path) -> None:
    (project / versions.SOURCE).write_text('__version__ = "9.9.9"\n')
    git(project, "commit", "-qam", "Next")
    assert "run 'make version'" in refusals.refuse(project)


@pytest.mark.parametrize("tag", [f"v{__version__}", f"clients/go/v{__version__}"])
def test_a_version_with_a_tag_is_refused(tag: str, project: Path) -> None:
    git(project, "tag", tag)
    assert refusals.refuse(project).startswith(f"the tag {tag} exists")
    assert "\n" not in refusals.refuse(project)


def test_the_provenance_is_a_statement_about_every_file(tmp_path: Path) -> None:
    files = [tmp_path / "b.whl", tmp_path / "a.tgz"]
    for file in files:
        file.write_bytes(file.name.encode())
    made = provenance.state(ROOT, files, version="1.2.3", commit="c" * 40, epoch=5, tools={"uv": "1"})
    assert (made["_type"], made["predicateType"]) == ("https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1")
    assert made["subject"] == [
        {"name": name, "digest": {"sha256": hashlib.sha256(name.encode()).hexdigest()}} for name in ("a.tgz", "b.whl")
    ]
    definition, details = made["predicate"]["buildDefinition"], made["predicate"]["runDetails"]
    assert {"buildType", "externalParameters", "resolvedDependencies"} <= definition.keys()
    assert definition["internalParameters"]["signed"] is False
    source, *pins = definition["resolvedDependencies"]
    assert source["digest"] == {"gitCommit": "c" * 40}
    assert len(pins) == len(provenance.MATERIALS)
    assert all(set(pin["digest"]) == {"sha256"} for pin in pins)
    assert details["builder"]["id"]
    provenance.write(tmp_path / "made.json", made)
    assert json.loads((tmp_path / "made.json").read_text()) == made


def test_the_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    provenance.write_sums(tmp_path / "SHA256SUMS", [tmp_path / "a"])
    assert (tmp_path / "SHA256SUMS").read_text() == f"{hashlib.sha256(b'a').hexdigest()}  a\n"


def test_archives_of_the_same_files_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/program").write_text("x")
    (folder / "sub/program").chmod(0o700)
    (folder / "text").write_text("y")
    files = archives.read_folder(folder, "top/")
    backwards = dict(reversed(list(files.items())))
    for number, order in enumerate((files, backwards)):
        archives.write_tar(tmp_path / f"{number}.tar.gz", order, 1_700_000_000)
        archives.write_zip(tmp_path / f"{number}.zip", order, 1_700_000_000)
    for kind in ("tar.gz", "zip"):
        assert (tmp_path / f"0.{kind}").read_bytes() == (tmp_path / f"1.{kind}").read_bytes()
    with tarfile.open(tmp_path / "0.tar.gz") as archive:
        assert [(one.name, one.mode, one.mtime, one.uid) for one in archive] == [
            ("top/sub/program", 0o755, 1_700_000_000, 0),
            ("top/text", 0o644, 1_700_000_000, 0),
        ]
    assert zipfile.ZipFile(tmp_path / "0.zip").namelist() == ["top/sub/program", "top/text"]
    before = (tmp_path / "0.tar.gz").read_bytes()
    archives.rewrite_tar(tmp_path / "0.tar.gz", 1_700_000_000)
    assert (tmp_path / "0.tar.gz").read_bytes() == before
