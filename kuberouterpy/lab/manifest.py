"""Apply a file of objects where there is no kubectl: create what is new, merge what is there.

It finds each kind through the API's own discovery, and leaves out what kubectl does besides: field ownership and pruning.
"""

from __future__ import annotations

from pathlib import Path

from kuberouterpy.errors import LabError
from kuberouterpy.lab.client import MERGE, ApiError, Client, Object, Resource


def check(path: Path) -> None:
    """Refuse a file that is no YAML at all: said before a kernel boots, not half a minute later. Errors: LabError.

    What looks like JSON is left to who applies it: tabs in it are fine there, and not in YAML.
    """
    import yaml

    try:
        text = path.read_text()
        if not text.lstrip().startswith(("{", "[")):
            for _event in yaml.parse(text, Loader=yaml.SafeLoader):
                pass
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LabError(f"--apply {path}: {' '.join(str(error).split())}") from error


def apply(client: Client, path: Path) -> None:
    """Apply every object of a YAML or JSON file, in the file's order.

    Errors: LabError names the file, the object and what the API said.
    """
    import yaml

    try:
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LabError(f"--apply {path}: {' '.join(str(error).split())}") from error
    found: dict[str, dict[str, Resource]] = {}
    for document in documents:
        if not isinstance(document, dict):
            raise LabError(f"--apply {path}: a document that is no object: {document!r}")
        for item in document.get("items", []) if document.get("kind") == "List" else [document]:
            _put(client, path, item, found)


def _put(client: Client, path: Path, item: Object, found: dict[str, dict[str, Resource]]) -> None:
    try:
        version, kind, meta = str(item["apiVersion"]), str(item["kind"]), item["metadata"]
        name = str(meta["name"])
    except (KeyError, TypeError) as error:
        raise LabError(f"--apply {path}: an object without {error}") from error
    try:
        if version not in found:
            found[version] = _discover(client, version)
        resource = found[version].get(kind)
        if resource is None:
            raise LabError(f"--apply {path}: {kind} {name}: the API server has no {version} {kind}")
        if resource.namespaced:
            meta.setdefault("namespace", "default")
        try:
            client.create(resource, item)
        except ApiError as error:
            if error.status != 409:
                raise
            client.request("PATCH", resource.path(meta.get("namespace", ""), name), item, MERGE)
    except ApiError as error:
        raise LabError(f"--apply {path}: {kind} {name}: {error}") from error


def _discover(client: Client, version: str) -> dict[str, Resource]:
    answer = client.request("GET", f"/api/{version}" if version == "v1" else f"/apis/{version}")
    return {
        one["kind"]: Resource(one["kind"], version, one["name"], namespaced=one["namespaced"])
        for one in answer["resources"]
        if "/" not in one["name"]
    }
