"""The manifests in `deploy/kubernetes`: valid for Kubernetes, complete, and without settings that do not exist.

No cluster is needed: `kubernetes-validate` brings the schemas of the API. Whether pods run is not tested here. Costs a second.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, cast

import kubernetes_validate
import pytest
import yaml

from tests.repo.source import ROOT, files

_FOLDER: Final = ROOT / "deploy/kubernetes"
_KUSTOMIZATION: Final = _FOLDER / "kustomization.yaml"
_VERSION: Final = "1.37"


def _read(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def _kustomization() -> dict[str, Any]:
    (document,) = _read(_KUSTOMIZATION)
    return document


def _manifests() -> list[Path]:
    found = [path for path in files(".yaml") if path.parent == _FOLDER and path != _KUSTOMIZATION]
    assert found
    return found


def _documents() -> dict[tuple[str, str], Any]:
    return {
        (document["kind"], document["metadata"]["name"]): document
        for path in _manifests()
        for document in _read(path)
    }


def _values(node: object, key: str) -> list[Any]:
    """All values of this key, however deep."""
    if isinstance(node, list):
        return [value for each in cast("list[object]", node) for value in _values(each, key)]
    if not isinstance(node, dict):
        return []
    fields = cast("dict[str, object]", node)
    own = [fields[key]] if key in fields else []
    return own + [value for each in fields.values() for value in _values(each, key)]


def test_each_manifest_is_valid() -> None:
    for document in _documents().values():
        assert kubernetes_validate.validate(document, _VERSION, strict=True) == _VERSION


def test_a_field_that_does_not_exist_is_noticed() -> None:
    deployment = _documents()["Deployment", "wrenn-control"]
    deployment["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="'replica' was unexpected"):
        kubernetes_validate.validate(deployment, _VERSION, strict=True)


def test_the_kustomization_names_every_file() -> None:
    assert sorted(_kustomization()["resources"]) == sorted(path.name for path in _manifests())


def test_secrets_and_images_that_are_used_are_in_the_kustomization() -> None:
    made = {(each["namespace"], each["name"]) for each in _kustomization()["secretGenerator"]}
    documents = _documents().values()
    used = {
        (document["metadata"]["namespace"], name)
        for document in documents
        if document["kind"] != "Ingress"  # its certificate is made by others
        for name in [
            *_values(document, "secretName"),
            *(each["name"] for each in _values(document, "secretRef")),
        ]
    }
    assert used == made
    images = {each["name"] for each in _kustomization()["images"]}
    assert {image for document in documents for image in _values(document, "image")} == images


def test_secrets_cannot_be_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "deploy/kubernetes/secrets/" in ignored
    sources = [
        name.rpartition("=")[2]
        for each in _kustomization()["secretGenerator"]
        for name in [*each.get("files", []), *each.get("envs", [])]
    ]
    assert sources
    assert all(name.startswith("secrets/") for name in sources)


def test_pods_are_found_by_what_selects_them() -> None:
    documents = _documents()
    labels = documents["Deployment", "wrenn-control"]["spec"]["template"]["metadata"]["labels"]
    service = documents["Service", "wrenn-control"]["spec"]
    assert service["selector"] == labels
    for kind, name in (("Deployment", "wrenn-control"), ("PodDisruptionBudget", "wrenn-control")):
        assert documents[kind, name]["spec"]["selector"]["matchLabels"] == labels
    agents = documents["DaemonSet", "wrenn-agent"]["spec"]
    assert agents["selector"]["matchLabels"] == agents["template"]["metadata"]["labels"]
    namespaces = {name for kind, name in documents if kind == "Namespace"}
    assert {document["metadata"].get("namespace") for document in documents.values()} - {None} == namespaces
    backends = _values(documents["Ingress", "wrenn"], "service")
    assert [each["name"] for each in backends] == ["wrenn-control"] * 2
    ports = {port["name"] for port in service["ports"]}
    assert all(each["port"]["name"] in ports for each in backends)


def test_settings_exist() -> None:
    reference = (ROOT / "docs/reference/settings.md").read_text()
    text = "".join(path.read_text() for path in [_KUSTOMIZATION, *_manifests()])
    named = set(re.findall(r"\b(?:WRENN_[A-Z0-9_]+|DATABASE_URL)\b", text))
    assert {"DATABASE_URL", "WRENN_JWT_SECRET", "WRENN_CA_CERT", "WRENN_CA_KEY"} <= named
    assert {name for name in named if f"`{name}`" not in reference} == set()
    variables = {
        each["name"]
        for document in _documents().values()
        for group in _values(document, "env")
        for each in group
    }
    assert variables <= named | {"NODE_IP"}
