"""The dependencies: `licenses` checks them by .github/licenses.toml, `audit` also their pins; `sbom FILE` lists them.

`npm-sbom FILE` lists those of the npm package. All work offline, from the locks, the installed packages and `cargo metadata`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import license_expression
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = ROOT / ".requirements.lock"
CRATE = ROOT / "cache_sidecar/native/Cargo.toml"
UV_LOCK = ROOT / "k8s/image/uv.txt"
_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)(.*?)(?=^[a-z0-9]|\Z)", re.MULTILINE | re.DOTALL)


class Package(NamedTuple):
    """A dependency, direct or not."""

    kind: str
    "`pypi` or `cargo`."
    name: str
    version: str
    licence: str
    "An SPDX expression; empty if none is declared."
    hashes: tuple[str, ...]
    "SHA-256 of each file that the lock accepts."
    is_shipped: bool
    "Whether it is in the image or a wheel, rather than a tool."
    needs: tuple[str, ...] = ()
    "Names of packages of the same kind."

    def __str__(self) -> str:
        return f"{self.kind}:{self.name} {self.version}"


class Rules(NamedTuple):
    """The content of .github/licenses.toml."""

    allowed: frozenset[str]
    tools: frozenset[str]
    exceptions: dict[str, str]
    declared: dict[str, str]
    classifiers: dict[str, str]

    @classmethod
    def load(cls) -> "Rules":
        """Reads the file."""
        found = tomllib.loads((ROOT / ".github/licenses.toml").read_text())
        return cls(
            frozenset(found["allowed"]), frozenset(found["tools"]), found["exceptions"], found["declared"], found["classifiers"]
        )

    def refuse(self, package: Package) -> str:
        """Returns why a package's licence is not allowed; empty if it is."""
        if not package.licence:
            return "declares no licence: add its SPDX expression to `declared`"
        known = {*self.allowed, *(() if package.is_shipped else self.tools)}
        known |= {self.exceptions.get(package.name, "")}
        try:
            parsed = _LICENSING.parse(package.licence)
        except license_expression.ExpressionError:
            return f"{package.licence!r} is no SPDX expression"
        return "" if _is_allowed(parsed, known) else f"{package.licence} is not allowed"


_LICENSING = license_expression.Licensing()


def _is_allowed(expression: Any, known: set[str]) -> bool:
    if isinstance(expression, _LICENSING.OR):
        return any(_is_allowed(term, known) for term in expression.args)
    if isinstance(expression, _LICENSING.AND):
        return all(_is_allowed(term, known) for term in expression.args)
    return str(expression) in known


def read_lock(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Returns version and SHA-256 hashes of each package in a lock file, by name."""
    return {
        name: (version, tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)))
        for name, version, rest in _PINNED.findall(text)
    }


def list_python(rules: Rules) -> Iterator[Package]:
    """Yields the packages of the lock file."""
    pinned = read_lock(LOCK.read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    shipped = _closure([*project["dependencies"], *extras["injector"], *extras["mongodb"], *extras["otel"]], pinned)
    for name, (version, hashes) in pinned.items():
        needs = tuple(sorted(set(_requirements(name)) & pinned.keys()))
        yield Package("pypi", name, version, _licence_of(name, rules), hashes, name in shipped, needs)


def _closure(requirements: Iterable[str], pinned: Iterable[str]) -> set[str]:
    """Returns the names of requirements and of all that these require, with their extras."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            if (key := (_normal(wanted.name), extra)) not in found:
                found.add(key)
                waiting += [one for one in _all_requirements(key[0]) if _applies(one, extra)]
    return {name for name, _ in found} & set(pinned)


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _all_requirements(name: str) -> list[Requirement]:
    try:
        return [Requirement(text) for text in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return []  # for another platform


def _requirements(name: str) -> list[str]:
    return [_normal(one.name) for one in _all_requirements(name) if _applies(one, "")]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _licence_of(name: str, rules: Rules) -> str:
    """Returns a package's licence: as the rules say, as it declares it, or as its classifiers do."""
    if name in rules.declared:
        return rules.declared[name]
    try:
        found: Any = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    if expression := found.get("License-Expression"):
        return str(expression)
    if (words := str(found.get("License") or "")) in rules.allowed | rules.tools:
        return words
    classifiers = [line.rpartition(" :: ")[2] for line in found.get_all("Classifier") or [] if line.startswith("License ::")]
    known = [rules.classifiers[line] for line in classifiers if line in rules.classifiers]
    return " AND ".join(dict.fromkeys(known))


def list_crates() -> list[Package] | None:
    """Returns the crates of the native engine, or None if cargo or the crates are not there."""
    if shutil.which("cargo") is None:
        return None
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--offline", f"--manifest-path={CRATE}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    found = json.loads(done.stdout)
    packages = {package["id"]: package for package in found["packages"] if package["source"]}
    built = _crates_built(found)
    locked = tomllib.loads(CRATE.with_name("Cargo.lock").read_text())["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum", "") for package in locked}
    edges = {node["id"]: node["dependencies"] for node in found["resolve"]["nodes"]}
    return [
        Package(
            "cargo",
            package["name"],
            package["version"],
            (package["license"] or "").replace(" / ", " OR ").replace("/", " OR "),
            tuple(filter(None, [checksums[package["name"], package["version"]]])),
            id in built,
            tuple(sorted({packages[need]["name"] for need in edges[id] if need in packages})),
        )
        for id, package in packages.items()
    ]


def _crates_built(found: Any) -> set[str]:
    """Returns the ids of the crates that are compiled into the engine or run while it is built: all but those of tests."""
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    built: set[str] = set()
    waiting = [found["resolve"]["root"]]
    while waiting:
        id = waiting.pop()
        if id not in built:
            built.add(id)
            waiting += [dep["pkg"] for dep in nodes[id]["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]
    return built


def list_packages(rules: Rules) -> list[Package]:
    """Returns all dependencies; says so if crates cannot be listed."""
    crates = list_crates()
    if crates is None:
        print("SKIPPED the crates: cargo is not installed, or has not downloaded them yet", file=sys.stderr)
    return [*list_python(rules), *(crates or [])]


def check_licenses() -> list[str]:
    """Returns a line for each package whose licence is not allowed."""
    rules = Rules.load()
    packages = list_packages(rules)
    problems = [f"{package}: {reason}" for package in packages if (reason := rules.refuse(package))]
    gone = {*rules.exceptions, *rules.declared} - {package.name for package in packages}
    return problems + [f".github/licenses.toml: there is no package {name}" for name in sorted(gone)]


def make_sbom(packages: Iterable[Package], version: str) -> str:
    """Returns a CycloneDX 1.6 document; the same for the same packages and SOURCE_DATE_EPOCH."""
    packages = list(packages)
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"cache-sidecar {version} {packages}"))
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        bom.metadata.timestamp = datetime.fromtimestamp(int(epoch), UTC)
    root = Component(name="cache-sidecar", version=version, type=ComponentType.APPLICATION, bom_ref="cache-sidecar")
    root.licenses.add(LicenseExpression("Apache-2.0"))
    bom.metadata.component = root
    components = {(package.kind, package.name, package.version): _component(package) for package in packages}
    for component in components.values():
        bom.components.add(component)
    by_name: dict[tuple[str, str], list[Component]] = {}
    for (kind, name, _), component in components.items():
        by_name.setdefault((kind, name), []).append(component)
    for package in packages:
        needed = [one for name in package.needs for one in by_name[package.kind, name]]
        bom.register_dependency(components[package.kind, package.name, package.version], needed)
    required = {(package.kind, name) for package in packages for name in package.needs}
    roots = [components[key] for key in components if key[:2] not in required]
    bom.register_dependency(root, roots)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the document is not valid CycloneDX: {error}")
    return text


def _component(package: Package) -> Component:
    url = PackageURL(package.kind, None, package.name, package.version)
    site = {"pypi": "https://pypi.org/project/{}/{}/", "cargo": "https://crates.io/crates/{}/{}"}[package.kind]
    # Any of these files satisfies the lock: one per platform.
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(site.format(package.name, package.version)),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content) for content in package.hashes],
    )
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=str(url),
        purl=url,
        licenses=[LicenseExpression(package.licence)] if package.licence else [],
        external_references=[files],
        scope=ComponentScope.REQUIRED if package.is_shipped else ComponentScope.EXCLUDED,
    )


def make_npm_sbom() -> str:
    """Returns the CycloneDX document that npm makes of the package's lock, with neither a number by chance nor the time."""
    command = ["npm", "sbom", "--package-lock-only", "--omit=dev", "--sbom-format=cyclonedx"]
    done = subprocess.run(command, cwd=ROOT / "clients/typescript", check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    found["serialNumber"] = uuid5(NAMESPACE_URL, json.dumps(found["components"])).urn
    found["metadata"]["timestamp"] = _released().isoformat()
    return json.dumps(found, indent=2)


def _released() -> datetime:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)


def audit() -> list[str]:
    """Returns a line for each input that is not pinned by hash, and each licence that is not allowed."""
    problems = check_licenses()
    for file in (LOCK, UV_LOCK):
        problems += [
            f"{file.name}: {name} has no hash" for name, (_, hashes) in read_lock(file.read_text()).items() if not hashes
        ]
    pinned = read_lock(LOCK.read_text())
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    problems += [
        f"{LOCK.name}: lacks {text} of the build backend" for text in build if _normal(Requirement(text).name) not in pinned
    ]
    for crate in tomllib.loads(CRATE.with_name("Cargo.lock").read_text())["package"]:
        if "source" in crate and "checksum" not in crate:
            problems.append(f"Cargo.lock: {crate['name']} has no checksum")
    installed = {name for name in pinned if _is_outdated(name, pinned[name][0])}
    return problems + [f"{name} is installed in another version than the locked one" for name in sorted(installed)]


def _is_outdated(name: str, version: str) -> bool:
    try:
        return metadata.version(name) != version
    except metadata.PackageNotFoundError:
        return False  # for another platform


_NEEDS_NETWORK = """Not looked at, as it needs a network:
  known vulnerabilities, Python: uvx pip-audit --require-hashes --disable-pip -r .requirements.lock
  known vulnerabilities, Rust:   cargo audit --file cache_sidecar/native/Cargo.lock   (cargo install cargo-audit)
  Debian's packages in the image: make image-lock; and scan the image, for example with trivy or grype"""


def main(command: str, *arguments: str) -> int:
    """Runs a command; returns its exit code."""
    if command == "npm-sbom":
        Path(arguments[0]).write_text(make_npm_sbom() + "\n")
        return 0
    if command == "sbom":
        (file,) = arguments
        version = re.search(r'__version__ = "(.+)"', (ROOT / "cache_sidecar/__init__.py").read_text())
        assert version
        packages = list_packages(Rules.load())
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(make_sbom(packages, version[1]) + "\n")
        print(f"{file}: {len(packages)} packages, {sum(package.is_shipped for package in packages)} of them shipped")
        return 0
    problems = {"licenses": check_licenses, "audit": audit}[command]()
    for problem in problems:
        print(problem, file=sys.stderr)
    if command == "audit":
        if not problems:
            print("Every package is pinned by hash, and every licence is allowed.")
        print(_NEEDS_NETWORK)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
