"""The manifests of deploy/kubernetes are what Kubernetes takes, and agree with `millrace serve`, its settings, and each
other."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from millrace.commands.serve import serve
from millrace.settings import ServeYaml
from serving.console.sessions import SECONDS
from serving.counts import ROUTES

ROOT = Path(__file__).resolve().parents[2]
FOUND: list[dict[str, Any]] = [
    document
    for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
BY_NAME = {(document["kind"], document["metadata"]["name"]): document for document in FOUND}
DEPLOYMENT = BY_NAME["Deployment", "millrace-serve"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
LABELS = DEPLOYMENT["template"]["metadata"]["labels"]
(CONTAINER,) = POD["containers"]
SETTINGS = ServeYaml()
RELEASES = ("1.29", kubernetes_validate.latest_version())
"""The oldest release of Kubernetes that the manifests are for, and the newest whose schemas are known."""


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", BY_NAME, ids="-".join)
def test_each_is_what_kubernetes_takes(name: tuple[str, str], release: str) -> None:
    kubernetes_validate.validate(BY_NAME[name], release, strict=True)


def test_what_kubernetes_does_not_know_is_found() -> None:
    misspelt = deepcopy(BY_NAME["Deployment", "millrace-serve"])
    (container,) = misspelt["spec"]["template"]["spec"]["containers"]
    container["readinesProbe"] = container.pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(misspelt, RELEASES[-1], strict=True)


def options() -> dict[str, str]:
    """The options of the container's command."""
    program, command, *rest = CONTAINER["command"]
    assert (program, command) == ("millrace", "serve")
    return dict(zip(rest[::2], rest[1::2], strict=True))


def test_the_command_is_one_that_serve_takes() -> None:
    known = {name for parameter in serve.params for name in parameter.opts}
    assert options().keys() <= known
    assert options()["--host"] == "0.0.0.0"
    assert "--without-keys" not in CONTAINER["command"]
    assert int(options()["--workers"]) == int(CONTAINER["resources"]["requests"]["cpu"])


def test_the_ports_are_those_that_it_listens_on() -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"http": int(options()["--port"]), "grpc": int(options()["--grpc-port"])}
    assert ports["http"] == SETTINGS.port
    annotations = DEPLOYMENT["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["http"])
    assert annotations["prometheus.io/path"] in ROUTES
    for name in ("millrace-serve", "millrace-console"):
        service = BY_NAME["Service", name]["spec"]
        assert service["selector"] == LABELS
        assert all(ports[port["targetPort"]] == port["port"] for port in service["ports"])


def test_the_probes_ask_what_is_answered() -> None:
    probes = {name: CONTAINER[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert all(probe["httpGet"]["port"] == "http" for probe in probes.values())
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}
    assert set(paths.values()) <= set(ROUTES)


def test_what_has_begun_is_answered_before_the_end() -> None:
    waits = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > waits + SETTINGS.drain_seconds


def test_a_pod_may_do_no_more_than_it_must() -> None:
    user = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if "useradd" in line)
    assert POD["securityContext"]["runAsNonRoot"] and f"--uid {POD['securityContext']['runAsUser']}" in user
    assert POD["automountServiceAccountToken"] is False
    context = CONTAINER["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= CONTAINER["resources"]["requests"].keys()
    assert "memory" in CONTAINER["resources"]["limits"]


def test_the_rule_of_the_latency_is_of_the_route_that_scales() -> None:
    """The adapter makes `<<.Series>>` the name of the metric, without what `seriesQuery` selects by."""
    lines = (ROOT / "deploy/kubernetes/autoscaling.yaml").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("#   - seriesQuery"))
    last = lines.index("#", first)
    (rule,) = yaml.safe_load("\n".join(line.removeprefix("#") for line in lines[first:last]))
    assert "{" not in rule["seriesQuery"]
    buckets = f"{rule['seriesQuery'].removesuffix('_bucket')}_bucket"
    assert rule["seriesQuery"] == buckets == "millrace_request_seconds_bucket"
    assert '{<<.LabelMatchers>>,route="/get-online-features"}' in rule["metricsQuery"]
    assert "/get-online-features" in ROUTES and "sum by (le, <<.GroupBy>>)" in rule["metricsQuery"]
    scaler = BY_NAME["HorizontalPodAutoscaler", "millrace-serve"]["spec"]
    assert rule["name"]["as"] == scaler["metrics"][0]["pods"]["metric"]["name"]


def test_scaling_and_disruption_are_of_this_deployment() -> None:
    scaler = BY_NAME["HorizontalPodAutoscaler", "millrace-serve"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "millrace-serve"}
    assert scaler["minReplicas"] >= 2
    names = [metric[metric["type"].lower()].get("metric", {}).get("name") for metric in scaler["metrics"]]
    assert "millrace_request_seconds_p99" in names
    assert BY_NAME["PodDisruptionBudget", "millrace-serve"]["spec"]["selector"]["matchLabels"] == LABELS
    assert DEPLOYMENT["selector"]["matchLabels"] == LABELS
    assert "replicas" not in DEPLOYMENT, "it would undo what the autoscaler has set, at each apply"


def test_a_console_stays_at_the_pod_of_its_session() -> None:
    console = BY_NAME["Service", "millrace-console"]["spec"]
    assert console["sessionAffinity"] == "ClientIP"
    assert console["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"] >= SECONDS
