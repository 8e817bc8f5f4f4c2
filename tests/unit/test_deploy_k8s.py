"""The Kubernetes manifests: valid by Kubernetes' and Ray's own schemas, closed but for the edge, true to the settings.

No cluster runs here: nothing was applied.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from actors.errors import Misconfigured
from actors.replica import end_s
from actors.settings import Settings
from deploy.config import load
from tests.unit.test_deploy_docker import PINNED

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "k8s"
VERSIONS = ("1.29", "1.37")
"""The oldest and the newest Kubernetes for which it is checked."""
Document = dict[str, Any]


@cache
def documents() -> list[Document]:
    paths = sorted(FOLDER.glob("**/*.yaml"))
    return [document for path in paths for document in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> list[Document]:
    return [document for document in documents() if document["kind"] == kind]


def ray_service() -> Document:
    (found,) = of_kind("RayService")
    return dict(found["spec"])


def pods() -> Iterator[tuple[str, Document]]:
    """Every pod's template, by its component."""
    cluster = ray_service()["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    templates += [each["spec"]["template"] for kind in ("Deployment", "StatefulSet") for each in of_kind(kind)]
    for template in templates:
        yield template["metadata"]["labels"]["app.kubernetes.io/component"], template


def container(template: Document) -> Document:
    (found,) = template["spec"]["containers"]
    return dict(found)


def serve_config() -> Document:
    return dict(yaml.safe_load(ray_service()["serveConfigV2"]))


def settings_of_the_application() -> Settings:
    (application,) = serve_config()["applications"]
    return load(application["args"] | {"edge": application["args"]["edge"] | {"secret": "bXkgb3du"}})


RUN_REHYDRA = ("head", "host", "edge")
COMPONENTS = (*RUN_REHYDRA, "postgres", "redis")


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_that_kubernetes_knows_is_valid_by_its_schemas(version: str) -> None:
    for document in documents():
        if document["kind"] != "RayService":
            kubernetes_validate.validate(document, version, strict=True)
    for name, template in pods():
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
        kubernetes_validate.validate(whole, version, strict=True)
    wrong = deepcopy(of_kind("StatefulSet")[0])
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_application_is_valid_by_serves_schema_and_its_settings_fit_together() -> None:
    config = ServeDeploySchema.model_validate(serve_config())
    (application,) = config.applications
    assert application.import_path == "deploy.app:build"
    hosts = next(each for each in application.deployments if each.name == "SessionHost")
    settings = settings_of_the_application()
    assert hosts.graceful_shutdown_timeout_s >= end_s(settings)
    assert hosts.num_replicas == settings.ring.slots_max, "hosts beyond the slots have no sessions"
    assert settings.http.bind == "", "hosts on several nodes reach each other"
    (head,) = (template for name, template in pods() if name == "head")
    assert {"name": "serve", "containerPort": config.http_options.port} in container(head)["ports"]


def test_edges_go_by_the_ring_of_the_application() -> None:
    (edge,) = (template for name, template in pods() if name == "edge")
    said = {each["name"]: each.get("value") for each in container(edge)["env"]}
    assert said["REHYDRA_RING__SLOTS_MAX"] == str(settings_of_the_application().ring.slots_max)


def test_ray_is_the_version_that_the_image_has() -> None:
    lock = (FOLDER.parent / "requirements.lock").read_text().splitlines()
    assert f"ray=={ray_service()['rayClusterConfig']['rayVersion']}" in lock


def test_there_is_a_pod_for_each_part_confined_pinned_and_asked_how_it_is() -> None:
    assert sorted(name for name, _ in pods()) == sorted(COMPONENTS)
    for name, template in pods():
        spec, found = template["spec"], container(template)
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["automountServiceAccountToken"] is False, name
        assert found["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert found["image"] == "rehydra:0.1.0" or PINNED.fullmatch(found["image"]), name
        assert "readinessProbe" in found and "livenessProbe" in found, name
        assert found["resources"]["limits"]["memory"], name


def test_kubernetes_tells_nobody_of_its_services_in_variables_that_would_be_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (service,) = (each for each in of_kind("Service") if each["metadata"]["name"] == "rehydra")
    monkeypatch.setenv(f"{service['metadata']['name'].upper()}_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(Misconfigured, match="REHYDRA_SERVICE_HOST"):
        load()
    ours = {name: template["spec"]["enableServiceLinks"] for name, template in pods() if name in RUN_REHYDRA}
    assert ours == dict.fromkeys(RUN_REHYDRA, False)


def test_no_secret_stands_in_a_manifest() -> None:
    assert of_kind("Secret") == []
    for name, template in pods():
        for variable in container(template).get("env", ()):
            if any(word in variable["name"] for word in ("SECRET", "PASSWORD", "AUTH", "URL")):
                outside = "secretKeyRef" in variable.get("valueFrom", {}) or variable["name"].endswith("_FILE")
                assert outside, f"{name}: {variable['name']}"


def test_only_the_edges_are_open_to_everybody() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    nobody = policies.pop("nobody")
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress"]}
    opened = {name for name, spec in policies.items() if any("from" not in rule for rule in spec["ingress"])}
    assert opened == {"clients-to-edges"}
    assert policies["clients-to-edges"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "edge"
    (edge,) = (template for name, template in pods() if name == "edge")
    assert policies["clients-to-edges"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]
    assert container(edge)["ports"] == [{"name": "http", "containerPort": 8000}]
    # Nobody from outside of the namespace but the operator.
    foreign = [peer for spec in policies.values() for rule in spec["ingress"] for peer in rule.get("from", ())]
    foreign = [peer for peer in foreign if "namespaceSelector" in peer or "ipBlock" in peer]
    assert [peer["podSelector"]["matchLabels"] for peer in foreign] == [{"app.kubernetes.io/name": "kuberay-operator"}]
    assert all("type" not in service["spec"] for service in of_kind("Service")), "ClusterIP"


def test_every_selector_finds_pods() -> None:
    labels = [template["metadata"]["labels"] for _, template in pods()]
    chosen = [each["spec"]["selector"] for kind in ("Service",) for each in of_kind(kind)]
    chosen += [each["spec"]["selector"]["matchLabels"] for each in of_kind("PodDisruptionBudget")]
    chosen += [each["spec"]["podSelector"].get("matchLabels", {}) for each in of_kind("NetworkPolicy")]
    for wanted in chosen:
        assert any(wanted.items() <= found.items() for found in labels), wanted


def test_a_pod_has_the_time_to_leave_in_good_order() -> None:
    """Its sessions are handed over within the drain's deadline, and nothing is killed before that is over."""
    (host,) = (template for name, template in pods() if name == "host")
    script = container(host)["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert subprocess.run(["bash", "-n", "-c", script], timeout=10, check=False).returncode == 0
    drains_s = int(script.split("--deadline-remaining-seconds ")[1].split()[0])
    waits_s = int(script.split("SECONDS + ")[1].split(")")[0])
    assert end_s(settings_of_the_application()) < drains_s < waits_s < host["spec"]["terminationGracePeriodSeconds"]
    (edge,) = (template for name, template in pods() if name == "edge")
    pause_s = int(container(edge)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert settings_of_the_application().agent.deadline_s <= pause_s < edge["spec"]["terminationGracePeriodSeconds"]


def test_stores_keep_what_they_have() -> None:
    for store in of_kind("StatefulSet"):
        (claim,) = store["spec"]["volumeClaimTemplates"]
        mounted = {each["name"] for each in container(store["spec"]["template"])["volumeMounts"]}
        assert claim["metadata"]["name"] in mounted
    (redis,) = (template for name, template in pods() if name == "redis")
    for told in ("--appendfsync always", "--maxmemory-policy noeviction", "requirepass $REDISCLI_AUTH"):
        assert told in container(redis)["command"][-1]
