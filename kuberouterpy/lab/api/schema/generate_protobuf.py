"""Write ``protobuf.json``: field numbers of the kinds served, taken from Kubernetes' own ``generated.proto`` and ``types.go``.

kubectl sends what it makes itself (``kubectl create namespace``) in protobuf and has no switch for JSON. Run by hand::

    go mod download k8s.io/api@v0.32.4 k8s.io/apimachinery@v0.32.4
    python -m kuberouterpy.lab.api.schema.generate_protobuf $(go env GOPATH)/pkg/mod/k8s.io

A field is ``[name, type, flags]`` by its number. Types: ``s`` string, ``i`` number, ``b`` boolean, ``y`` bytes, else a message.
Flags: ``r`` repeated, ``m`` map with string keys, ``k`` zero is kept (a pointer, or no omitempty), ``l`` inline in JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from kuberouterpy.lab.api.resources import BUILT_IN

_GROUPS = {
    "": "core",
    "apps": "apps",
    "batch": "batch",
    "storage.k8s.io": "storage",
    "rbac.authorization.k8s.io": "rbac",
    "coordination.k8s.io": "coordination",
    "discovery.k8s.io": "discovery",
    "events.k8s.io": "events",
    "networking.k8s.io": "networking",
    "policy": "policy",
    "scheduling.k8s.io": "scheduling",
    "authorization.k8s.io": "authorization",
    "authentication.k8s.io": "authentication",
}
_FURTHER = {
    "v1/DeleteOptions": "meta.v1.DeleteOptions",
    "meta.k8s.io/v1/DeleteOptions": "meta.v1.DeleteOptions",
    "policy/v1/Eviction": "policy.v1.Eviction",
    "policy/v1beta1/Eviction": "policy.v1.Eviction",
    "v1/Binding": "core.v1.Binding",
    "autoscaling/v1/Scale": "autoscaling.v1.Scale",
}
_SCALARS = {"string": "s", "bool": "b", "bytes": "y", "int32": "i", "int64": "i", "uint32": "i", "uint64": "i"}
_RENAMED = {"aPIGroup": "apiGroup"}
_FIELD = re.compile(r"^  (optional|repeated|map<string, ([.\w]+)>) ?([.\w]*) (\w+) = (\d+);", re.M)
_GO_FIELD = re.compile(r"^\t(\w+\s+)?(\*?)[\w.\[\]*]+\s+`json:\"([^\",]*)(,[^\"]*)?\"", re.M)

Field = list[str]


def main(folder: Path) -> None:
    """Write the file."""
    messages: dict[str, dict[str, Field]] = {}
    for proto in sorted(folder.glob("api*@*/**/generated.proto")):
        package = re.search(r"^package ([\w.]+);", proto.read_text(), re.M)
        assert package is not None
        prefix = _short(package[1])
        if not re.search(r"(\.v1|api\.resource|util\.intstr|runtime)$", prefix) or "apiextensions" in prefix:
            continue
        messages |= _messages(proto, prefix)
    roots = {
        f"{resource.api_version}/{resource.kind}": f"{_GROUPS[resource.group]}.v1.{resource.kind}"
        for resource in BUILT_IN
        if resource.group in _GROUPS
    } | _FURTHER
    wanted: dict[str, dict[str, Field]] = {}
    queue = list(roots.values())
    while queue:
        name = queue.pop()
        if name not in wanted and name in messages:
            wanted[name] = messages[name]
            queue += [field[1] for field in messages[name].values() if len(field[1]) > 1]
    lines = [f"{json.dumps(name)}:{json.dumps(wanted[name], separators=(',', ':'))}" for name in sorted(wanted)]
    text = '{"roots":' + json.dumps(roots, separators=(",", ":")) + ',"messages":{\n' + ",\n".join(lines) + "\n}}\n"
    Path(__file__).with_name("protobuf.json").write_text(text)


def _short(package: str) -> str:
    return re.sub(r"^k8s\.io\.(api|apimachinery\.pkg\.apis|apimachinery\.pkg)\.", "", package)


def _messages(proto: Path, prefix: str) -> dict[str, dict[str, Field]]:
    sources = sorted(path for path in proto.parent.glob("*.go") if not path.name.startswith(("zz_", "generated")))
    go = "\n".join(path.read_text() for path in sources)
    found: dict[str, dict[str, Field]] = {}
    for match in re.finditer(r"^message (\w+) \{\n(.*?)^\}", proto.read_text(), re.M | re.S):
        struct = re.search(rf"^type {match[1]} struct \{{\n(.*?)^\}}", go, re.M | re.S)
        tags = {tag[3]: (bool(tag[2]), tag[4] or "") for tag in _GO_FIELD.finditer(struct[1])} if struct else {}
        fields: dict[str, Field] = {}
        for label, mapped, kind, found_name, number in _FIELD.findall(match[2]):
            name = _RENAMED.get(found_name, found_name)
            inner = _type(mapped or kind, prefix)
            pointer, options = tags.get(name, (False, ""))
            kept = pointer or (inner in {"i", "b"} and "omitempty" not in options)
            inline = struct is not None and name not in tags
            flags = ("m" if mapped else "r" if label == "repeated" else "") + "k" * kept + "l" * inline
            fields[number] = [name, inner, flags]
        found[f"{prefix}.{match[1]}"] = fields
    return found


def _type(kind: str, prefix: str) -> str:
    if kind in _SCALARS:
        return _SCALARS[kind]
    return _short(kind.lstrip(".")) if "." in kind else f"{prefix}.{kind}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
