"""The resources for Kubernetes: each as its schema has it, and together: what one names, another is."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tools import needs

from dia2stream.cluster.settings import read
from dia2stream.options import ServeOptions

SCRIPTS = Path(__file__).parent.parent / "scripts"
FOLDER = SCRIPTS / "kubernetes"
VERSIONS = ("1.31", "1.37")  # preStop's sleep is older
PROXY = {"app.kubernetes.io/name": "dia2stream-proxy"}
OURS = ("kustomize.config.k8s.io/v1beta1", "ray.io/v1")  # not Kubernetes' own: looked at below


def resources(name: str) -> list[dict[str, Any]]:
    """Everything that a kustomization brings, as kustomize would gather it."""
    told = yaml.safe_load((FOLDER / name / "kustomization.yaml").read_text("utf-8"))
    found: list[dict[str, Any]] = []
    for path in told["resources"]:
        if (FOLDER / name / path).is_dir():
            found += resources(f"{name}/{path}")
        else:
            found += list(yaml.safe_load_all((FOLDER / name / path).read_text("utf-8")))
    for made in told.get("configMapGenerator", []):
        data = dict(literal.split("=", 1) for literal in made.get("literals", []))
        data |= {file: (FOLDER / name / file).read_text("utf-8") for file in made.get("files", [])}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": data})
    return found


BOTH = {name: resources(name) for name in ("base", "ray")}


def templates(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The pods that resources make."""
    for resource in found:
        if resource["kind"] == "Deployment":
            yield resource["spec"]["template"]
        elif resource["kind"] == "RayService":
            cluster = resource["spec"]["rayClusterConfig"]
            yield cluster["headGroupSpec"]["template"]
            yield from (group["template"] for group in cluster["workerGroupSpecs"])


def names(found: list[dict[str, Any]], kind: str) -> set[str]:
    return {resource["metadata"]["name"] for resource in found if resource["kind"] == kind}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BOTH)
def test_every_resource_is_as_its_schema_has_it(name, version):
    for resource in BOTH[name]:
        if resource["apiVersion"] not in OURS:
            kubernetes_validate.validate(resource, version, strict=True)
    for template in templates(BOTH[name]):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("name", BOTH)
def test_what_a_pod_uses_is_there(name):
    found = BOTH[name]
    for template in templates(found):
        pod = template["spec"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            claim, configuration = volume.get("persistentVolumeClaim"), volume.get("configMap")
            assert claim is None or claim["claimName"] in names(found, "PersistentVolumeClaim")
            assert configuration is None or configuration["name"] in names(found, "ConfigMap")
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes.keys()
            for source in container.get("envFrom", []):
                kind = "ConfigMap" if "configMapRef" in source else None
                assert kind is None or source["configMapRef"]["name"] in names(found, kind)
                assert kind or source["secretRef"]["name"] == "dia2stream"  # which the first lines say how to make
            ports = {port["name"] for port in container.get("ports", [])}
            probes = [probe for key, probe in container.items() if key.endswith("Probe")]
            asked = {probe[how]["port"] for probe in probes for how in ("httpGet", "tcpSocket") if how in probe}
            assert asked <= ports


@pytest.mark.parametrize("name", BOTH)
def test_selectors_select_pods_and_services_name_their_ports(name):
    found = BOTH[name]
    pods = [template for template in templates(found) if "metadata" in template]

    def selected(labels: dict[str, str]) -> list[dict[str, Any]]:
        return [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]

    for resource in found:
        if resource["kind"] == "Service":
            (pod,) = selected(resource["spec"]["selector"])
            ports = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
            assert {port["targetPort"] for port in resource["spec"]["ports"]} <= ports
        elif resource["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert len(selected(resource["spec"]["selector"]["matchLabels"])) == 1
        elif resource["kind"] == "HorizontalPodAutoscaler":
            assert resource["spec"]["scaleTargetRef"]["name"] in names(found, "Deployment")


def test_images_are_those_that_the_kustomization_names():
    for name, found in BOTH.items():
        told = yaml.safe_load((FOLDER / name / "kustomization.yaml").read_text("utf-8"))
        used = {container["image"] for template in templates(found) for container in template["spec"]["containers"]}
        assert {image["name"] for image in told["images"]} == {image for image in used if ":" not in image}


def test_servers_are_told_only_what_they_know_and_where_the_journal_is():
    (told,) = (r["data"] for r in BOTH["base"] if r["metadata"]["name"] == "dia2stream" and r["kind"] == "ConfigMap")
    assert {name.removeprefix("DIA2STREAM_").lower() for name in told} <= set(ServeOptions.__dataclass_fields__)
    assert told["DIA2STREAM_JOURNAL"] == "redis://dia2stream-journal:6379"
    assert "dia2stream-journal" in names(BOTH["base"], "Service")
    assert told["DIA2STREAM_AGENT_PORT"] == "9765"
    proxy = (FOLDER / "base" / "haproxy.cfg").read_text("utf-8")
    assert "agent-port 9765" in proxy
    assert proxy.count('"${DIA2STREAM_SERVERS}:8765"') == 2


def test_haproxy_is_told_the_whole_name_of_the_servers_service():
    """It asks a name server for a name as it stands, without the pod's search domains."""
    (pod,) = (each for each in templates(BOTH["base"]) if each["metadata"]["labels"] == PROXY)
    told = {each["name"]: each for each in pod["spec"]["containers"][0]["env"]}
    assert told["NAMESPACE"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    service, *rest = told["DIA2STREAM_SERVERS"]["value"].split(".")
    assert rest == ["$(NAMESPACE)", "svc", "cluster", "local"]
    assert service in names(BOTH["base"], "Service")
    assert list(told) == ["NAMESPACE", "DIA2STREAM_SERVERS"]  # what a value names has to stand before it


@needs("haproxy")
def test_haproxy_takes_its_configuration():
    check = ["haproxy", "-c", "-f", str(FOLDER / "base" / "haproxy.cfg")]
    told = {**os.environ, "DIA2STREAM_SERVERS": "dia2stream-servers.speech.svc.cluster.local"}
    checked = subprocess.run(check, capture_output=True, text=True, timeout=30, env=told)
    assert checked.returncode == 0, checked.stderr


def applications() -> Iterator[dict[str, Any]]:
    (service,) = (resource for resource in BOTH["ray"] if resource["kind"] == "RayService")
    for text in (service["spec"]["serveConfigV2"], (SCRIPTS / "serve.yaml").read_text("utf-8")):
        yield from yaml.safe_load(text)["applications"]


@pytest.mark.parametrize("application", list(applications()))
def test_the_ray_application_takes_its_arguments(application):
    assert application["import_path"] == "dia2stream.cluster.ray:app"
    told = read(application["args"])
    assert told.serve.slots == "auto"
    assert told.cluster.max_replicas > told.cluster.min_replicas


def test_kuberay_finds_rays_proxy_on_every_node():
    """Its probes ask the port that is named `serve`, with the image's wget."""
    (service,) = (resource for resource in BOTH["ray"] if resource["kind"] == "RayService")
    port = yaml.safe_load(service["spec"]["serveConfigV2"])["http_options"]["port"]
    for template in templates([service]):
        named = {each["name"]: each["containerPort"] for each in template["spec"]["containers"][0]["ports"]}
        assert named["serve"] == port
    assert "wget" in (SCRIPTS / "image").read_text("utf-8")
