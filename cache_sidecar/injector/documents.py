"""YAML files, read and written so that comments, quotes and order stay as they were."""

import io
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cache_sidecar.core.errors import InputError

# A sequence below its key that is indented: both styles are common, and a file keeps its own.
_INDENTED = re.compile(r"^( *)[^\s#-][^\n]*:[ \t]*\n(?:[ \t]*(?:#[^\n]*)?\n)*\1 +- ", re.MULTILINE)


def read(text: str, origin: str) -> list[Any]:
    """Returns the documents of a file. Raises InputError with one line that says where it is wrong."""
    try:
        return list(_yaml(text).load_all(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = str(error.problem or error.context).splitlines()[0]
        raise InputError(f"{origin}{where}: not YAML: {problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}: not YAML: {(str(error).splitlines() or ['nested too deeply'])[0]}") from None


def write(documents: list[Any], like: str, *, among_others: bool) -> str:
    """Returns the text of documents that were read from the text `like`, started by `---` where others come before."""
    out = io.StringIO()
    yaml = _yaml(like)
    yaml.explicit_start = among_others or like.lstrip("\n").startswith("---")
    yaml.dump_all([document for document in documents if document is not None], out)
    return out.getvalue()


def _yaml(text: str) -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    if _INDENTED.search(text):
        yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml
