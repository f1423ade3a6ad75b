"""Bearer tokens that are strong enough, and files with secrets."""

import hashlib
from pathlib import Path


def token(name: str) -> str:
    """Returns the same token for the same name."""
    return f"{name}-{hashlib.sha256(name.encode()).hexdigest()}"


def secret_file(file: Path, content: str | bytes = "") -> Path:
    """Writes a file that only its owner can read; it stays so when it is written again."""
    file.touch(mode=0o600)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file
