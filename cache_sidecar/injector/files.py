"""What the commands do with files: inject, take out again, or only say what would be done."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cache_sidecar.core.errors import InputError
from cache_sidecar.injector import apply, documents, pods
from cache_sidecar.injector.config import NEWEST, InjectorConfig, parse_version
from cache_sidecar.injector.consider import Verdict, consider
from cache_sidecar.injector.decide import Place
from cache_sidecar.injector.workloads import Workload, labelled_namespaces, workloads


class File(NamedTuple):
    """A file with its documents."""

    origin: str
    text: str
    documents: list[Any]

    def workloads(self) -> Iterator[Workload]:
        """Yields the workloads of all its documents."""
        for document in self.documents:
            yield from workloads(document)

    def written(self, *, among_others: bool) -> str:
        """Returns the file's text as its documents are now."""
        return documents.write(self.documents, self.text, among_others=among_others)


class Result(NamedTuple):
    """What was decided about one workload."""

    workload: str
    action: str
    "inject, skip or deny."
    detail: str


def read(name: str) -> File:
    """Reads a file, or standard input for `-`. Raises InputError."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8") from None
    origin = "standard input" if name == "-" else name
    return File(origin, text, documents.read(text, origin))


def inject(files: list[File], config: InjectorConfig, *, by_label: bool) -> list[Result]:
    """Puts the sidecar into the files' workloads, and brings one that is there up to date. Says what it did to each."""
    version = parse_version(config.kubernetes_version) if config.kubernetes_version else NEWEST
    enabled = {name: on for file in files for document in file.documents for name, on in labelled_namespaces(document).items()}
    results = []
    for file in files:
        for workload in file.workloads():
            place = Place(workload.namespace, enabled=enabled.get(workload.namespace, not by_label))
            results.append(_inject(workload, place, config, version))
    return results


def _inject(workload: Workload, place: Place, config: InjectorConfig, version: tuple[int, int]) -> Result:
    try:
        pod = pods.check(workload.pod)
        apply.uninject(pod)
        verdict = consider(pod, place, config.sidecar, version)
    except InputError as error:
        return Result(workload.name, "deny", str(error))
    apply.apply(pod, verdict.patch)
    return Result(workload.name, "skip" if verdict.reason else "inject", _detail(verdict))


def _detail(verdict: Verdict) -> str:
    return f"{verdict.reason.code}: {verdict.reason.value}" if verdict.reason else ""


def uninject(files: list[File]) -> list[Result]:
    """Takes injected sidecars out of the files' workloads."""
    results = []
    for file in files:
        for workload in file.workloads():
            try:
                done = apply.uninject(pods.check(workload.pod))
            except InputError as error:
                results.append(Result(workload.name, "deny", str(error)))
            else:
                detail = "" if done else "not_injected: the pod has no sidecar that was injected"
                results.append(Result(workload.name, "uninject" if done else "skip", detail))
    return results
