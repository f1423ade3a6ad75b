"""Passwords from files, as Kubernetes mounts Secrets. Read for every new connection, so that a change needs no restart."""

from cache_sidecar.core import masks
from cache_sidecar.core.errors import SettingsError
from cache_sidecar.core.watched_files import read_file

URI_OPTION = "password_file"
"The option of a PostgreSQL URI that names such a file: ours, not libpq's, whose passfile must be readable by its owner only."
_LONGEST = 4096


def read_password(file: str) -> str:
    """Returns the only line of a file, and masks it in all output from now on.

    Raises SettingsError with one line, which never contains any of it.
    """
    try:
        content = read_file(file, _LONGEST + 1, is_secret=True)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    try:
        password = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not UTF-8") from None
    if not password:
        raise SettingsError(f"{file} is empty: it must hold a password")
    if len(content) > _LONGEST or set(password) & set("\r\n\0"):
        raise SettingsError(f"{file} must hold a password on one line of at most {_LONGEST} bytes")
    masks.add(password)
    return password
