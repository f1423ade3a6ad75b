"""Why nothing can be released as the tree is."""

import subprocess
from pathlib import Path

import changelog
import versions


def git(root: Path, *arguments: str) -> str:
    """Returns what git prints."""
    return subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def tags(version: str) -> tuple[str, str]:
    """Returns the tags of a release: of the project, and of its Go module, which Go looks for by its folder."""
    return f"v{version}", f"clients/go/v{version}"


def refuse(root: Path) -> str:
    """Returns, in a line, why there can be no release of a checkout; empty if there can."""
    if changed := git(root, "status", "--porcelain").splitlines():
        return f"the tree is dirty: commit or remove {changed[0][2:].strip()}" + (" and others" if changed[1:] else "")
    if others := versions.find_others(root):
        return others[0]
    version = versions.read_version(root)
    if not changelog.section((root / "CHANGELOG.md").read_text(), version):
        return f"CHANGELOG.md has no section '## {version} - YYYY-MM-DD' with anything in it"
    for tag in tags(version):
        if git(root, "tag", "--list", tag):
            return f"the tag {tag} exists: this version is released; choose the next one with 'make version TO=...'"
    return ""
