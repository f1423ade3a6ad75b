"""Packs the fuzz corpus, one archive per target, and unpacks it.

    python cache_sidecar/native/fuzz/corpus.py unpack FOLDER   # FOLDER/TARGET gets the inputs of corpus/TARGET.tar
    python cache_sidecar/native/fuzz/corpus.py pack FOLDER     # corpus/TARGET.tar gets those of FOLDER/TARGET

The archives are not compressed, so that the crate's tests read them without a decompressor. Packing the same inputs again
writes the same bytes. Needs only Python's standard library.
"""

import io
import sys
import tarfile
from pathlib import Path

_CORPUS = Path(__file__).parent / "corpus"


def pack(inputs: Path, archive: Path) -> None:
    """Writes the files of a folder to an archive: sorted by name, all with the same metadata."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for file in sorted(inputs.iterdir()):
            data = file.read_bytes()
            entry = tarfile.TarInfo(file.name)  # mtime and owner are 0
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def unpack(archive: Path, folder: Path) -> None:
    """Writes the files of an archive into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for entry in tar:
            data = tar.extractfile(entry)
            if data is not None:
                (folder / Path(entry.name).name).write_bytes(data.read())


def main() -> int:
    """Runs a command; returns 64 when it is not one."""
    if len(sys.argv) != 3 or sys.argv[1] not in {"pack", "unpack"}:
        print(__doc__, file=sys.stderr)
        return 64
    command, folder = sys.argv[1], Path(sys.argv[2])
    if command == "unpack":
        for archive in sorted(_CORPUS.glob("*.tar")):
            unpack(archive, folder / archive.stem)
    else:
        for inputs in sorted(path for path in folder.iterdir() if path.is_dir()):
            pack(inputs, _CORPUS / f"{inputs.name}.tar")
    return 0


if __name__ == "__main__":
    sys.exit(main())
