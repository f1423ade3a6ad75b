"""A ConfigMap for tests, mounted as the kubelet does it."""

import os
from pathlib import Path

# When its files were written, in seconds since the epoch.
START = 1_700_000_000.0


class ConfigMap:
    """A ConfigMap as the kubelet mounts it: `policy.toml -> ..data/policy.toml`, `..data -> a folder of its own`."""

    def __init__(self, root: Path, text: str) -> None:
        self._root = root
        self._swaps = 0
        self.file = root / "policy.toml"
        self.swap(text)
        self.file.symlink_to("..data/policy.toml")

    def swap(self, text: str) -> None:
        """Replaces the contents of the mount atomically."""
        self._swaps += 1
        folder = self._root / f"..{self._swaps}"
        folder.mkdir()
        (folder / "policy.toml").write_text(text)
        # The same mtime as the first: only the file itself differs.
        os.utime(folder / "policy.toml", (START, START))
        (self._root / "..next").symlink_to(folder.name)
        (self._root / "..next").rename(self._root / "..data")
