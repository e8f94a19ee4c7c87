"""Write ``types.json``: field names and types of the kinds served, taken from the ``kubernetes`` client's models.

Run by hand when the client moves: ``python -m kuberouterpy.lab.api.schema.generate``. Only names and types are kept.
One letter per scalar: ``s`` string, ``i`` integer, ``n`` number, ``b`` boolean, ``t`` time, ``q`` quantity, ``p`` port or name
(integer or string), ``*`` anything; ``[x`` list of x, ``{x`` map to x; otherwise the name of a type.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from kuberouterpy.lab.api.resources import BUILT_IN

_NAMES = {
    ("", "Event"): "CoreV1Event",
    ("events.k8s.io", "Event"): "EventsV1Event",
}
_QUANTITIES = re.compile(
    r"^(limits|requests|capacity|allocatable|hard|used|sizeLimit|divisor|overhead|minAvailableBytes)$"
)
_SCALARS = {"string": "s", "integer": "i", "number": "n", "boolean": "b", "object": "*"}


def main() -> None:
    """Write the file."""
    from kubernetes import client

    types: dict[str, dict[str, str]] = {}
    roots: dict[str, str] = {}
    wanted = {"V1DeleteOptions": None, "V1Scale": None, "V1Eviction": None, "V1Binding": None}
    for resource in BUILT_IN:
        name = _NAMES.get((resource.group, resource.kind), f"V1{resource.kind}")
        roots[f"{resource.api_version}/{resource.kind}"] = name
        wanted[name] = None
    for name in wanted:
        schema = getattr(client, name).model_json_schema(by_alias=True)
        for inner, definition in {name: schema, **schema.get("$defs", {})}.items():
            if "properties" in definition:
                types[inner] = {key: _letter(key, value) for key, value in definition["properties"].items()}
                types[inner] |= {f"!{key}": "" for key in definition.get("required", ())}
    lines = [
        f"{json.dumps(name)}:{json.dumps(fields, separators=(',', ':'))}" for name, fields in sorted(types.items())
    ]
    text = '{"roots":' + json.dumps(roots, separators=(",", ":")) + ',"types":{\n' + ",\n".join(lines) + "\n}}\n"
    Path(__file__).with_name("types.json").write_text(text)


def _letter(field: str, value: dict[str, Any]) -> str:
    if "$ref" in value:
        return str(value["$ref"]).rsplit("/", 1)[1]
    if "anyOf" in value:
        kinds = [_letter(field, one) for one in value["anyOf"] if one.get("type") != "null"]
        return kinds[0] if len(kinds) == 1 else "p" if set(kinds) == {"i", "s"} else "*"
    kind = value.get("type")
    if kind == "array":
        return "[" + _letter("", value.get("items") or {})
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return "{" + ("q" if _QUANTITIES.match(field) else _letter("", value["additionalProperties"]))
    if kind == "string":
        return "t" if value.get("format") == "date-time" else "q" if _QUANTITIES.match(field) else "s"
    return _SCALARS.get(str(kind), "*")


if __name__ == "__main__":
    main()
