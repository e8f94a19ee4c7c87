"""Files are applied without kubectl: created, merged, or refused with the object's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kuberouterpy.errors import LabError
from kuberouterpy.lab import manifest
from kuberouterpy.lab.api.config import Config
from kuberouterpy.lab.api.server import ApiServer
from kuberouterpy.lab.client import NAMESPACES, SERVICES, Client

SERVICE = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ports: [{port: %s}]
"""


@pytest.fixture
def client() -> Iterator[Client]:
    server = ApiServer(Config())
    server.start()
    found = Client(server.url)
    yield found
    found.close()
    server.stop()


def written(folder: Path, text: str) -> Path:
    path = folder / "objects.yaml"
    path.write_text(text)
    return path


def test_objects_are_created_and_applied_again_as_changed(client: Client, tmp_path: Path) -> None:
    for port in (80, 81):
        manifest.apply(client, written(tmp_path, SERVICE % port))
        assert client.get(SERVICES, "shop", "web")["spec"]["ports"][0]["port"] == port
    assert client.get(NAMESPACES, "", "shop")["metadata"]["name"] == "shop"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [", "objects.yaml"),
        ("- 1", "no object"),
        ("kind: Pod", "'apiVersion'"),
        ("{apiVersion: v1, kind: Unicorn, metadata: {name: u}}", "no v1 Unicorn"),
        (
            "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 99999}]}}",
            "Service web.*99999",
        ),
        ("{apiVersion: no.such/v1, kind: Thing, metadata: {name: t}}", "Thing t"),
    ],
)
def test_what_cannot_be_applied_is_named(client: Client, tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(LabError, match=named):
        manifest.apply(client, written(tmp_path, text))


@pytest.mark.parametrize("text", ["a: [", "a: 1\n\tb: 2", "\0"])
def test_a_file_that_is_no_yaml_is_refused_before_there_is_a_cluster(tmp_path: Path, text: str) -> None:
    with pytest.raises(LabError, match=r"objects\.yaml: "):
        manifest.check(written(tmp_path, text))


@pytest.mark.parametrize("text", ["", SERVICE % 80, '{\t"kind": "List", "items": []}', "a: &x 1\nb: *x\n---\nc: 2"])
def test_what_might_be_objects_passes_the_first_look(tmp_path: Path, text: str) -> None:
    manifest.check(written(tmp_path, text))
