"""What no validator checks: that the manifests' references, ports, times and settings fit."""

import re
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from drafter.config import DrafterConfig
from lookahead.gateway.config import GatewayConfig
from tests.support.deploy.manifests import (
    OVERLAYS,
    ROOT,
    Manifests,
    containers,
    find_all,
    pod_labels,
    pod_spec,
    port_names,
    probes,
)
from verifier.config import VerifierConfig
from verifier.server import GRACE_S

pytestmark = pytest.mark.slow

DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
SETTINGS: dict[str, type[BaseSettings]] = {
    "drafter": DrafterConfig,
    "verifier": VerifierConfig,
    "gateway": GatewayConfig,
}
# What the overlay's first lines tell the operator to make.
OWN = {"lookahead-redis", "lookahead-keys", "drafter-tls", "verifier-tls", "gateway-tls"}
SECRETS = {
    "local": set[str](),
    "external-redis": OWN,
    "production": OWN | {"redis-tls"},
    "tensor-parallel": OWN | {"redis-tls"},
}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifests(overlay: str) -> Manifests:
    return Manifests(overlay)


def test_selectors_take_the_pods_they_are_meant_for(manifests: Manifests) -> None:
    for workload in manifests.workloads():
        name = workload["metadata"]["name"]
        assert manifests.selected(workload["spec"]["selector"]) == [workload], name
    for service in manifests.kind("Service"):
        (target,) = manifests.selected({"matchLabels": service["spec"]["selector"]})
        assert service["metadata"]["name"].startswith(target["metadata"]["name"])
    for budget in manifests.kind("PodDisruptionBudget"):
        (target,) = manifests.selected(budget["spec"]["selector"])
        assert budget["metadata"]["name"] == target["metadata"]["name"]
    for spec in find_all(manifests.kind("Deployment"), "podAffinityTerm"):
        assert manifests.selected(spec["labelSelector"])


def test_ports_have_the_names_that_services_and_probes_use(manifests: Manifests) -> None:
    for service in manifests.kind("Service"):
        (target,) = manifests.selected({"matchLabels": service["spec"]["selector"]})
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in port_names(target), service["metadata"]["name"]
    for workload in manifests.workloads():
        for name, probe in probes(workload):
            for port in (*find_all(probe, "port"),):
                known = port_names(workload)
                assert port in known or port in known.values(), (name, port)
    for monitor in manifests.kind("PodMonitor"):
        targets = manifests.selected(monitor["spec"]["selector"])
        assert targets
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert all(endpoint["port"] in port_names(target) for target in targets)


def test_network_policies_open_ports_that_exist_between_pods_that_exist(
    manifests: Manifests,
) -> None:
    for policy in manifests.kind("NetworkPolicy"):
        spec, name = policy["spec"], policy["metadata"]["name"]
        own = manifests.selected(spec["podSelector"])
        assert own, name
        for rule in spec.get("ingress", []):
            _check_ports(rule, own, name)
            for peer in rule.get("from", []):
                assert "podSelector" not in peer or manifests.selected(peer["podSelector"]), name
        for rule in spec.get("egress", []):
            for peer in rule.get("to", []):
                if "podSelector" in peer:
                    targets = manifests.selected(peer["podSelector"])
                    assert targets, name
                    _check_ports(rule, targets, name)


def _check_ports(rule: dict[str, Any], targets: list[dict[str, Any]], name: str) -> None:
    for port in rule["ports"]:
        for target in targets:
            assert port["port"] in port_names(target), (name, port)


@pytest.mark.parametrize(
    ("caller", "target"),
    [("gateway", "verifier"), ("verifier", "drafter"), ("drafter", "redis")],
)
def test_network_policies_let_each_service_reach_the_next(
    manifests: Manifests, caller: str, target: str
) -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in manifests.kind("NetworkPolicy")}
    if target not in policies:  # a Redis of the operator's own, anywhere
        assert policies[caller]["egress"] == [{"ports": [{"protocol": "TCP", "port": 6379}]}]
        return
    labels = {"matchLabels": {"app.kubernetes.io/name": target}}
    (rule, *_) = policies[caller]["egress"]
    assert {"podSelector": labels} in rule["to"]
    callers = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": caller}}}
    assert callers in policies[target]["ingress"][0]["from"]


@pytest.mark.parametrize("overlay", ["production", "tensor-parallel"])
def test_a_verifier_that_drafts_in_its_own_process_reaches_the_memory(overlay: str) -> None:
    manifests = Manifests(overlay)
    assert manifests.environment("verifier")["LOOKAHEAD_VERIFIER_DRAFTER"] == "embedded"
    urls = [
        [each["valueFrom"] for each in item["env"] if each["name"] == "LOOKAHEAD_DRAFTER_REDIS_URL"]
        for item in (containers(manifests.workload(name))[0] for name in ("drafter", "verifier"))
    ]
    assert urls[0] == urls[1] != []
    policies = {item["metadata"]["name"]: item["spec"] for item in manifests.kind("NetworkPolicy")}
    redis, verifier = (
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": name}}}
        for name in ("redis", "verifier")
    )
    assert any(redis in rule["to"] for rule in policies["verifier"]["egress"])
    assert verifier in policies["redis"]["ingress"][0]["from"]


def test_a_verifier_that_drafts_in_its_own_process_reaches_a_redis_of_your_own() -> None:
    policies = Manifests("external-redis").kind("NetworkPolicy")
    egress = {item["metadata"]["name"]: item["spec"].get("egress") for item in policies}
    assert egress["verifier"][1:] == egress["drafter"]


def test_autoscalers_and_replicas_do_not_quarrel(manifests: Manifests) -> None:
    for scaler in manifests.kind("HorizontalPodAutoscaler", "ScaledObject"):
        target = manifests.workload(scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"], scaler["metadata"]["name"]


def test_everything_referred_to_is_there(manifests: Manifests, overlay: str) -> None:
    secrets = manifests.names("Secret") | SECRETS[overlay]
    for workload in manifests.workloads():
        spec, name = pod_spec(workload), workload["metadata"]["name"]
        assert spec["serviceAccountName"] in manifests.names("ServiceAccount")
        for reference in find_all(spec, "configMapRef"):
            assert reference["name"] in manifests.names("ConfigMap"), name
        for reference in find_all(spec, "configMap"):
            assert reference["name"] in manifests.names("ConfigMap"), name
        used = {reference["name"] for reference in find_all(spec, "secretKeyRef")}
        used |= {reference["secretName"] for reference in find_all(spec, "secret")}
        unhashed = {re.sub(r"-[0-9a-z]{10}$", "", secret) for secret in secrets}
        assert {re.sub(r"-[0-9a-z]{10}$", "", secret) for secret in used} <= unhashed, name
        for claim in find_all(spec, "persistentVolumeClaim"):
            assert claim["claimName"] in manifests.names("PersistentVolumeClaim")
        for priority in find_all(spec, "priorityClassName"):
            assert priority in manifests.names("PriorityClass")


def test_mounts_have_volumes_and_volumes_mounts(manifests: Manifests) -> None:
    for workload in manifests.workloads():
        spec = pod_spec(workload)
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        claims = workload["spec"].get("volumeClaimTemplates", [])
        volumes |= {claim["metadata"]["name"] for claim in claims}
        mounts = {mount["name"] for item in containers(workload) for mount in item["volumeMounts"]}
        assert mounts == volumes, workload["metadata"]["name"]


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_the_programs_own(
    manifests: Manifests, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    environment = manifests.environment(name)
    prefix = f"LOOKAHEAD_{name.upper()}_"
    fields = SETTINGS[name].model_fields
    for key, value in environment.items():
        if not key.startswith(prefix):
            assert key == "HF_HUB_OFFLINE", f"{name} reads no {key}"
            continue
        assert key.removeprefix(prefix).lower() in fields, key
        monkeypatch.setenv(key, value)
    if name == "gateway":
        keys = tmp_path / "keys.json"
        keys.write_text('{"a key": "tenant"}')
        if f"{prefix}KEYS_FILE" in environment:
            monkeypatch.setenv(f"{prefix}KEYS_FILE", str(keys))
    SETTINGS[name]()  # the values, too


def test_keda_asks_for_a_metric_that_there_is() -> None:
    (scaler,) = Manifests("production").kind("ScaledObject")
    (query,) = (trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"])
    (name,) = re.findall(r"lookahead_\w+", query)
    assert f"| `{name}` | gauge |" in (ROOT / "docs/observability.md").read_text()


def test_tensor_parallel_verifiers_have_a_gpu_for_each_process_and_time_to_drain() -> None:
    manifests = Manifests("tensor-parallel")
    verifier = manifests.workload("verifier")
    (container,) = containers(verifier)
    options = dict(re.findall(r"--([\w-]+)=(\d+)", " ".join(container["args"])))
    assert options["nproc-per-node"] == container["resources"]["limits"]["nvidia.com/gpu"]
    drain_s = float(manifests.environment("verifier")["LOOKAHEAD_VERIFIER_DRAIN_S"])
    grace_s = pod_spec(verifier)["terminationGracePeriodSeconds"]
    assert drain_s + GRACE_S < float(options["shutdown-timeout"]) < grace_s
    (memory,) = (v for v in pod_spec(verifier)["volumes"] if v["name"] == "shm")
    assert memory["emptyDir"]["medium"] == "Memory"


def test_no_redis_runs_beside_one_of_your_own() -> None:
    manifests = Manifests("external-redis")
    assert {item["metadata"]["name"] for item in manifests.workloads()} == set(SETTINGS)
    assert "redis" not in {name.partition("-")[0] for name in manifests.names("ConfigMap")}


@pytest.mark.parametrize(
    ("name", "key", "target"),
    [
        ("verifier", "LOOKAHEAD_VERIFIER_DRAFTER", "drafter"),
        ("gateway", "LOOKAHEAD_GATEWAY_VERIFIER", "verifier"),
    ],
)
def test_addresses_are_services(manifests: Manifests, name: str, key: str, target: str) -> None:
    services = {item["metadata"]["name"]: item["spec"] for item in manifests.kind("Service")}
    addresses = manifests.environment(name)[key]
    for address in addresses.split(",") if addresses != "embedded" else ():
        host, _, port = address.partition(":")
        assert services[host]["selector"]["app.kubernetes.io/name"] == target
        assert int(port) in {item["port"] for item in services[host]["ports"]}


@pytest.mark.parametrize("name", SETTINGS)
def test_pods_serve_where_the_image_listens(manifests: Manifests, name: str) -> None:
    ports = port_names(manifests.workload(name))
    listens = dict(
        re.findall(rf"LOOKAHEAD_{name.upper()}_((?:METRICS_)?LISTEN)=0\.0\.0\.0:(\d+)", DOCKERFILE)
    )
    assert ports.get("grpc", ports.get("http")) == int(listens["LISTEN"])
    if "METRICS_LISTEN" in listens:
        assert ports["metrics"] == int(listens["METRICS_LISTEN"])
    for _, probe in probes(manifests.workload(name)):
        if "exec" in probe:
            assert f"localhost:{listens['LISTEN']}" in probe["exec"]["command"]


def test_pods_have_the_time_that_their_drain_needs(manifests: Manifests) -> None:
    for name, last_words_s in (("drafter", 2.0), ("verifier", GRACE_S), ("gateway", 1.0)):
        spec = pod_spec(manifests.workload(name))
        prefix = f"LOOKAHEAD_{name.upper()}_"
        environment = manifests.environment(name)
        drain_s = float(environment.get(f"{prefix}DRAIN_S", 0.0))
        (pre_stop,) = find_all(spec, "preStop")
        needed = float(pre_stop["exec"]["command"][1]) + drain_s + last_words_s
        assert spec["terminationGracePeriodSeconds"] > needed, name


def test_verifiers_may_take_half_an_hour_to_load(manifests: Manifests) -> None:
    (probe,) = (p for name, p in probes(manifests.workload("verifier")) if name == "startupProbe")
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800


def test_images_are_targets_of_the_dockerfile(manifests: Manifests) -> None:
    targets = set(re.findall(r"^FROM runtime AS (\w+)$", DOCKERFILE, re.MULTILINE))
    assert targets == set(SETTINGS)
    for name in SETTINGS:
        image = containers(manifests.workload(name))[0]["image"]
        assert image.rpartition("/")[2].partition(":")[0] == f"lookahead-{name}"


def test_pods_are_locked_down(manifests: Manifests) -> None:
    for workload in manifests.workloads():
        spec, name = pod_spec(workload), workload["metadata"]["name"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
        for volume in find_all(spec, "emptyDir"):
            assert "sizeLimit" in volume, name


def test_pods_are_not_all_in_one_place_in_production() -> None:
    for workload in Manifests("production").kind("Deployment"):
        spec = pod_spec(workload)
        (term,) = find_all(spec, "podAffinityTerm")
        assert term["labelSelector"]["matchLabels"].items() <= pod_labels(workload).items()
        assert spec["topologySpreadConstraints"]
