"""Archives that are the same for the same files: sorted, without owners, and with one time."""

import gzip
import io
import stat
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

Files = Mapping[str, tuple[bytes, bool]]
"""By name: the content, and whether it is a program."""


def read_folder(folder: Path, prefix: str) -> dict[str, tuple[bytes, bool]]:
    """Returns the files in a folder, by their names below a prefix."""
    return {
        f"{prefix}{file.relative_to(folder)}": (file.read_bytes(), bool(file.stat().st_mode & stat.S_IXUSR))
        for file in folder.rglob("*")
        if file.is_file()
    }


def write_tar(target: Path, files: Files, epoch: int) -> None:
    """Writes a .tar.gz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            content, is_program = files[name]
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content), epoch, 0o755 if is_program else 0o644
            archive.addfile(entry, io.BytesIO(content))
    target.write_bytes(gzip.compress(packed.getvalue(), 9, mtime=epoch))


def rewrite_tar(file: Path, epoch: int) -> None:
    """Writes a .tar.gz of files only again."""
    with tarfile.open(file) as archive:
        files = {
            entry.name: (content.read(), bool(entry.mode & stat.S_IXUSR))
            for entry in archive
            if (content := archive.extractfile(entry)) is not None
        }
    write_tar(file, files, epoch)


def write_zip(target: Path, files: Files, epoch: int) -> None:
    """Writes a .zip; its times end in 2107 and begin in 1980."""
    moment = time.gmtime(max(epoch, 315_532_800))[:6]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            content, is_program = files[name]
            entry = zipfile.ZipInfo(name, moment)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | (0o755 if is_program else 0o644)) << 16
            archive.writestr(entry, content)
