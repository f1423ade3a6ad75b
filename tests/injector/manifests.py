"""Renders the kustomizations in k8s, as far as they use kustomize: resources, components, JSON patches, replicas, files.

The end-to-end tests compare it with the real one. A key that it does not know is an error.
"""

import re
from pathlib import Path
from typing import Any

import jsonpatch
from ruamel.yaml import YAML

from cache_sidecar.injector import config
from cache_sidecar.injector.config import InjectorConfig

Object = dict[str, Any]
K8S = Path(__file__).parents[2] / "k8s"
_KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "replicas", "configMapGenerator", "generatorOptions"}


def read(text: str) -> list[Any]:
    return [document for document in YAML(typ="safe").load_all(text) if document]


def render(folder: Path, *, components: list[Path] | None = None) -> list[Object]:
    """Returns the objects of a kustomization, with further components applied to it."""
    (kustomization,) = read((folder / "kustomization.yaml").read_text())
    assert kustomization.keys() <= _KNOWN, kustomization.keys() - _KNOWN
    found: list[Object] = []
    for name in kustomization.get("resources", []):
        path = (folder / name).resolve()
        found += render(path) if path.is_dir() else read(path.read_text())
    _change(found, kustomization, folder)
    for component in components or []:
        (added,) = read((component / "kustomization.yaml").read_text())
        for name in added.get("resources", []):
            found += read((component / name).read_text())
        _change(found, added, component)
    return found


def _change(found: list[Object], kustomization: Object, folder: Path) -> None:
    for made in kustomization.get("configMapGenerator", []):
        data = {name: (folder / name).read_text() for name in made["files"]}
        metadata = {"name": made["name"], "namespace": made["namespace"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for replicas in kustomization.get("replicas", []):
        for thing in found:
            if thing["metadata"]["name"] == replicas["name"] and "replicas" in thing.get("spec", {}):
                thing["spec"]["replicas"] = replicas["count"]
    for patch in kustomization.get("patches", []):
        (operations,) = read(patch["patch"])
        (index,) = [index for index, thing in enumerate(found) if is_named(thing, **patch["target"])]
        found[index] = jsonpatch.apply_patch(found[index], operations)


def is_named(thing: Object, kind: str, name: str) -> bool:
    """Whether a target is an object; its name is a pattern, as in kustomize."""
    return bool(thing["kind"] == kind and re.fullmatch(name, thing["metadata"]["name"]))


ALL = {
    "base": (K8S / "base", []),
    "dev": (K8S / "overlays" / "dev", []),
    "ha": (K8S / "overlays" / "ha", []),
    "evict": (K8S / "overlays" / "ha", [K8S / "overlays" / "evict"]),
    "cert-manager": (K8S / "overlays" / "ha", [K8S / "overlays" / "cert-manager"]),
    "client-certificate": (K8S / "overlays" / "ha", [K8S / "overlays" / "client-certificate"]),
    "both": (K8S / "overlays" / "ha", [K8S / "overlays" / "cert-manager", K8S / "overlays" / "evict"]),
    "openshift": (K8S / "overlays" / "ha", [K8S / "overlays" / "openshift"]),
    "redis-cluster": (K8S / "examples" / "redis-cluster", []),
    "postgres": (K8S / "examples" / "postgres", []),
    "shop": (K8S / "examples" / "shop", []),
    "shop-autoscaling": (K8S / "examples" / "shop", [K8S / "examples" / "autoscaling"]),
}


def rendered(name: str) -> list[Object]:
    folder, components = ALL[name]
    return render(folder, components=components)


def configuration(deployment: Object, config_map: Object, folder: Path) -> InjectorConfig:
    """Returns what the injector's pod goes by: of the ConfigMap's files, put into a folder, those that its arguments name."""
    command, *options = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert command == "injector"
    files = re.findall(r"--config[ =]/etc/cache-sidecar-injector/(\S+)", " ".join(options))
    assert sorted(files) == sorted(config_map["data"]), "every file is named"
    for name, text in config_map["data"].items():
        (folder / name).write_text(text)
    return config.load(*(str(folder / file) for file in files))
