"""Injects the sidecar into files, removes it, or reports what would be done."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import apply, documents, lines, pods, sharing
from cache_sidecar.injector.config import NEWEST, InjectorConfig, parse_version
from cache_sidecar.injector.consider import Verdict, consider
from cache_sidecar.injector.decide import Place
from cache_sidecar.injector.workloads import Workload, namespace_labels, workloads

_MARK = "\ufeff"


class File(NamedTuple):
    """A file with its documents."""

    origin: str
    text: str
    "With line feeds only, and without a byte order mark."
    documents: list[Any]
    newline: str = "\n"
    raw: str = ""
    "As it was read."

    def workloads(self, templates: Mapping[str, str]) -> list[Workload]:
        """Returns the workloads of all its documents."""
        return [found for document in self.documents for found in workloads(document, templates)]

    def render(self, *, among_others: bool) -> str:
        """Returns the text of the file with its documents as they are now. Raises InputError."""
        try:
            text = documents.write(self.documents, self.text, among_others=among_others)
        except InputError as error:
            raise InputError(f"{self.origin}: {error}") from None
        text, before = (each.replace("\n", self.newline) for each in (text, self.text))
        raw = self.raw.removeprefix(_MARK)
        if raw and raw != before:
            # It has line ends of both kinds.
            text = lines.apply_change(raw, before, text)
        return _MARK * (self.raw.startswith(_MARK) and not among_others) + text


class Result(NamedTuple):
    """The result for one workload."""

    workload: str
    action: str
    "inject, skip or deny."
    detail: str


def read(name: str) -> File:
    """Reads a file, or standard input for `-`. Raises InputError."""
    origin = "standard input" if name == "-" else name
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = raw.decode()
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{origin} is not UTF-8") from None
    newline = "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"
    return parse(origin, text.removeprefix(_MARK).replace("\r\n", "\n"))._replace(newline=newline, raw=text)


def parse(origin: str, text: str) -> File:
    """Returns the file with a text, whose lines end with line feeds only. Raises InputError."""
    return File(origin, text, documents.read(text, origin))


def inject(files: list[File], config: InjectorConfig, *, by_label: bool) -> tuple[list[File], list[Result]]:
    """Injects the sidecar into the files' workloads, or updates it. Returns the files, and the result for each workload."""
    version = parse_version(config.kubernetes_version) if config.kubernetes_version else NEWEST
    files = _without_sidecars(files, config)
    enabled = {name: on for file in files for document in file.documents for name, on in namespace_labels(document).items()}
    results = []
    for file in files:
        for workload in file.workloads(config.pod_templates):
            place = Place(workload.namespace, enabled=enabled.get(workload.namespace, not by_label))
            results.append(_inject(workload, place, config, version))
    return files, results


def _without_sidecars(files: list[File], config: InjectorConfig) -> list[File]:
    """Returns the files without sidecars of before."""
    if all(result.action != "uninject" for result in uninject(files, config.pod_templates)):
        return files
    # Read again, because nodes that are shared again are not the ones that were read.
    return [_read_again(file) for file in files]


def _read_again(file: File) -> File:
    text, raw = documents.write(file.documents, file.text, among_others=False), file.render(among_others=False)
    return parse(file.origin, text)._replace(newline=file.newline, raw=raw)


def _inject(workload: Workload, place: Place, config: InjectorConfig, version: tuple[int, int]) -> Result:
    if workload.left_alone:
        return Result(workload.name, "skip", workload.left_alone)
    try:
        verdict = consider(workload.pod, place, config.sidecar, version)
    except InputError as error:
        return Result(workload.name, "deny", str(error))
    if verdict.patch:
        shared = sharing.separate(workload.document, workload.path, apply.ways(verdict.patch))
        if shared:
            apply.note_shared(verdict.patch, shared)
        apply.apply(workload.pod, verdict.patch)
    return Result(workload.name, "skip" if verdict.reason else "inject", _detail(verdict))


def _detail(verdict: Verdict) -> str:
    return f"{verdict.reason.code}: {verdict.reason.value}" if verdict.reason else ""


def uninject(files: list[File], templates: Mapping[str, str]) -> list[Result]:
    """Removes injected sidecars from the files' workloads. Returns the result for each."""
    results, shared = [], []
    for file in files:
        for workload in file.workloads(templates):
            if workload.left_alone:
                results.append(Result(workload.name, "skip", workload.left_alone))
                continue
            try:
                pod = pods.check(workload.pod)
            except InputError as error:
                results.append(Result(workload.name, "deny", str(error)))
                continue
            shared.append((workload, apply.read_shared(pod)))
            done = apply.uninject(pod)
            detail = "" if done else "not_injected: the pod has no injected sidecar"
            results.append(Result(workload.name, "uninject" if done else "skip", detail))
    # Only now: workloads that share a node have to be equal again.
    for workload, names in reversed(shared):
        sharing.share_again(workload.document, workload.path, names)
    return results
