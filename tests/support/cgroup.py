"""Files like those in which the kernel tells what a container may use of the memory, and what it uses."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from cache_sidecar.core import container_memory


@dataclass(frozen=True)
class Cgroup:
    """A container's files; all sizes are in bytes."""

    folder: Path
    is_v1: bool = False

    @property
    def files(self) -> tuple[str, str, str, str]:
        """Their paths, as in `CGROUPS`."""
        names = ("limit", "usage", "statistics")
        return *(str(self.folder / name) for name in names), "total_inactive_file " if self.is_v1 else "inactive_file "  # type: ignore[return-value]

    def write(self, *, limit: int | None = None, used: int | None = None, reclaimable: int = 0) -> None:
        """Writes what is given: the limit, what is used, and what of it the kernel could take back, in addition to `used`."""
        if limit is not None:
            (self.folder / "limit").write_text(f"{limit}\n")
        if used is not None:
            (self.folder / "usage").write_text(f"{used + reclaimable}\n")
            # Version 1 has the container's own figures, too, without those of the groups below it.
            own = "inactive_file 1\ntotal_" if self.is_v1 else ""
            (self.folder / "statistics").write_text(f"anon 5\n{own}inactive_file {reclaimable}\n")

    def replace_kernel_s(self, patch: pytest.MonkeyPatch) -> None:
        """Has this process read these files."""
        patch.setattr(container_memory, "CGROUPS", (self.files,))
