"""The sections of CHANGELOG.md."""

import re


def section(text: str, version: str) -> str:
    """Returns what a changelog says of a version, without its heading; empty if it has no section, or nothing in it."""
    found = re.search(rf"^## {re.escape(version)}(?: - \d{{4}}-\d\d-\d\d)$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return found[1].strip() if found else ""


def notes(text: str, version: str) -> str:
    """Returns the release notes of a version, in Markdown."""
    return f"# cache-sidecar {version}\n\n{section(text, version)}\n\n{_VERIFY}"


_VERIFY = """\
## To check what you have

`sha256sum --check SHA256SUMS`. `provenance.intoto.json` says of which commit and of which locked dependencies the files were
built (SLSA v1, **not signed**); `*.cdx.json` lists those dependencies (CycloneDX).
"""
