"""Kubernetes manifests as the overlays render them, and what in them refers to what."""

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.support import ROOT as ROOT

OVERLAYS = tuple(sorted(path.name for path in (ROOT / "deploy/k8s/overlays").iterdir()))
BIN = Path(sys.executable).parent

Object: TypeAlias = dict[str, Any]


@functools.cache
def rendered(overlay: str) -> str:
    """Return an overlay's YAML as kustomize builds it."""
    path = ROOT / "deploy/k8s/overlays" / overlay
    done = subprocess.run([BIN / "kubectl", "kustomize", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"kustomize warns: {done.stderr}"
    return done.stdout


class Manifests:
    """The objects of one overlay."""

    def __init__(self, overlay: str) -> None:
        self.objects: list[Object] = list(yaml.safe_load_all(rendered(overlay)))

    def kind(self, *kinds: str) -> list[Object]:
        """Return the objects of these kinds."""
        return [item for item in self.objects if item["kind"] in kinds]

    def names(self, kind: str) -> set[str]:
        """Return the names of all objects of a kind."""
        return {item["metadata"]["name"] for item in self.kind(kind)}

    def workloads(self) -> list[Object]:
        """Return what makes pods."""
        return self.kind("Deployment", "StatefulSet")

    def workload(self, name: str) -> Object:
        """Return the workload of this name."""
        (found,) = (item for item in self.workloads() if item["metadata"]["name"] == name)
        return found

    def selected(self, selector: Object) -> list[Object]:
        """Return the workloads whose pods a label selector takes; an empty one takes all."""
        return [item for item in self.workloads() if _matches(selector, pod_labels(item))]

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables of a workload's container that come from ConfigMaps or are plain."""
        container = containers(self.workload(name))[0]
        maps = {item["metadata"]["name"]: item["data"] for item in self.kind("ConfigMap")}
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= maps[source["configMapRef"]["name"]]
        plain = (item for item in container.get("env", []) if "value" in item)
        return found | {item["name"]: item["value"] for item in plain}


def pod_spec(workload: Object) -> Object:
    """Return the spec of a workload's pods."""
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def pod_labels(workload: Object) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(workload: Object) -> list[Object]:
    """Return the containers of a workload's pods."""
    found: list[Object] = pod_spec(workload)["containers"]
    return found


def port_names(workload: Object) -> dict[str, int]:
    """Return the number of each named port."""
    ports = (port for item in containers(workload) for port in item.get("ports", []))
    return {port["name"]: port["containerPort"] for port in ports}


def probes(workload: Object) -> Iterator[tuple[str, Object]]:
    """Yield each probe of a workload with its name."""
    for container in containers(workload):
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            if name in container:
                yield name, container[name]


def find_all(value: Any, key: str) -> Iterator[Any]:
    """Yield whatever stands under `key`, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for item in value.values():
            yield from find_all(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from find_all(item, key)


def _matches(selector: Object, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", "the only operator that these manifests use"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True
