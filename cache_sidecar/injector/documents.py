"""Reads and writes YAML and JSON files, keeping comments, quotes, order and style."""

import io
import json
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scanner import RoundTripScanner, Scanner

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import lines, sharing

# A sequence that is indented below its key. Both styles are common; a file keeps its own.
_INDENTED = re.compile(r"^( *)[^\s#-][^\n]*:[ \t]*\n(?:[ \t]*(?:#[^\n]*)?\n)*\1 +- ", re.MULTILINE)
_HEAD = re.compile(r"\n*(?P<comments>(?:[ \t]*#[^\n]*\n|[ \t]*\n)*)---(?:\s|$)")
# The first line of a document but the first: nothing within one may begin so.
_START = re.compile(r"^(?=---(?:\s|$))", re.MULTILINE)
# How Go writes <, > and & in JSON.
_ESCAPED = re.compile(r"\\u00(?:3c|3e|26)")


def read(text: str, origin: str) -> list[Any]:
    """Returns the documents of a file. Raises InputError with one line that contains the position of the error."""
    try:
        if is_json(text):
            return _read_json(text)
        documents = list(_yaml(text).load_all(text))
        for document in documents:
            sharing.check_size(document)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = str(error.problem or error.context).splitlines()[0]
        raise InputError(f"{origin}{where}: invalid YAML: {problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{origin}: invalid YAML: {(str(error).splitlines() or ['nested too deeply'])[0]}") from None
    for document in documents:
        sharing.prepare(document)
    return documents


def write(documents: list[Any], like: str, *, among_others: bool) -> str:
    """Returns documents as the text `like` that they were read from, but for what has changed; `---` first if `among_others`.

    Raises InputError rather than return a text that means something else.
    """
    present = [document for document in documents if document is not None]
    text = _write_json(present, like) if is_json(like) else _write_yaml(present, like)
    text = _keep_lines(present, like, text)
    if among_others:
        text = "---\n" * (_HEAD.match(text) is None) + text.removesuffix("\n") + "\n"
    return text


def _keep_lines(documents: list[Any], like: str, text: str) -> str:
    """Returns a text of documents with the lines of `like` where nothing has changed, if it means the same."""
    before = read(like, "")
    present = [document for document in before if document is not None]
    plain = list(map(_plain, documents))
    if list(map(_plain, present)) == plain:
        return like
    if is_json(like):
        return text
    if (was := _write_yaml(present, like)) == like:
        return text
    made = _apply_changes(like, was, text)
    return made if _means(made, plain) else text


def _apply_changes(like: str, before: str, text: str) -> str:
    """Returns `like` with the changes from `before` to `text`, document by document."""
    ours, old, new = (_START.split(each) for each in (like, before, text))
    changes = iter([pair for pair in zip(old, new, strict=False) if not _is_blank(pair[0])])
    made = [part if _is_blank(part) else lines.apply_change(part, *next(changes, (part, part))) for part in ours]
    return "".join(made)


def _is_blank(part: str) -> bool:
    """Whether a part of a file has no document, or an empty one."""
    return all(line.strip() in {"", "---", "...", "null", "~"} or line[:1] in {"#", "%"} for line in part.splitlines())


def _means(text: str, plain: list[Any]) -> bool:
    try:
        return _meaning(text) == plain
    except (YAMLError, ValueError, RecursionError):
        return False


def _write_yaml(documents: list[Any], like: str) -> str:
    out = io.StringIO()
    yaml = _yaml(like)
    # Comments before the first `---`, such as a licence, belong to no document.
    head = _HEAD.match(like)
    yaml.explicit_start = head is not None
    yaml.dump_all(documents, out)
    text = (head["comments"] if head else "") + out.getvalue()
    if "&" in text and _meaning(text) != [_plain(document) for document in documents]:
        raise InputError(
            "the file shares parts by anchors in a way that cannot be kept: write them out first, as `yq 'explode(.)'` does"
        )
    return text


def is_json(text: str) -> bool:
    """Whether a text is JSON: one object, or several after each other."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        return bool(_read_json(text))
    except (ValueError, RecursionError):
        return False


def _read_json(text: str) -> list[Any]:
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    found, position = [], 0
    while rest := re.compile(r"\S").search(text, position):
        value, position = decoder.raw_decode(text, rest.start())
        found.append(value)
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        # Read as YAML then, which names the key and its position.
        raise ValueError("duplicate key")
    return made


def _write_json(documents: list[Any], like: str) -> str:
    indented = re.match(r"\s*\{[ \t]*\r?\n([ \t]*)", like)
    separators = (",", ": ") if indented else ((", ", ": ") if re.search(r'": ', like) else (",", ":"))
    is_ascii = like.isascii() and "\\u" in _ESCAPED.sub("", like)
    made = [
        json.dumps(document, indent=indented[1] if indented else None, separators=separators, ensure_ascii=is_ascii)
        for document in documents
    ]
    text = "\n".join(made) + "\n" * like.endswith("\n")
    if _ESCAPED.search(like):
        text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return text


def _meaning(text: str) -> list[Any]:
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = _Tabs
    return [document for document in yaml.load_all(text) if document is not None]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


class _Tabs(Scanner):
    """Accepts tabs after a value or before a comment, as kubectl does."""

    def scan_to_next_token(self) -> Any:
        """Skips them where a line has begun with something else."""
        while not self.allow_simple_key and self.reader.peek() in " \t":
            self.reader.forward()
        return super().scan_to_next_token()


class _RoundTripTabs(_Tabs, RoundTripScanner):
    """Keeps comments, too."""


def _yaml(text: str) -> YAML:
    yaml = YAML()
    yaml.Scanner = _RoundTripTabs
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    # `[{name: a}]` would become `[name: a]`.
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    if _INDENTED.search(text):
        yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml
