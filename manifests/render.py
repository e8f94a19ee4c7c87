"""Write what is made from the chart: plain manifests, kustomize base and overlays, the schema of the chart's values.

    python manifests/render.py            write
    python manifests/render.py --check    say what is not as it would be written, and exit 3

The chart is the one source. A *variant* is a choice of its features.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parent
sys.path.insert(0, str(ROOT.parent))

from kuberouterpy.flags import FLAGS  # noqa: E402
from manifests.gotemplate import render as evaluate  # noqa: E402

CHART: Final = ROOT / "chart"
NAMESPACE: Final = "kube-system"
BASE: Final = ("serviceaccount", "binding")
"""What is the same in every variant."""
FEATURES: Final = ("role", "daemonset")
"""What follows from the features."""
VARIANTS: Final = {
    "all": "Service proxy, router and firewall: replaces kube-proxy and the network plugin.",
    "proxy": "Service proxy only: replaces kube-proxy beside another network plugin.",
    "router": "Router only: pod network and announcements by BGP beside kube-proxy.",
    "firewall": "Firewall only: NetworkPolicies beside kube-proxy and a network plugin without them.",
}
_MADE: Final = "# Made from manifests/chart by manifests/render.py; change the chart.\n"
_FLAG_FORMS: Final = {
    "BOOL": {"enum": ["true", "false"]},
    "DURATION": {"pattern": r"^(0|([0-9.]+(ns|us|µs|ms|s|m|h))+)$"},
}
_ELSEWHERE: Final = frozenset(
    {
        "run-service-proxy",
        "run-router",
        "run-firewall",
        "run-loadbalancer",
        "gobgp-socket",
        "sysctl-root",
        "runtime-endpoint",
    }
)
"""Flags that the chart itself gives."""


def template(name: str, values: dict[str, Any]) -> str:
    """Return one template of the chart, evaluated as ``helm template --namespace kube-system`` does."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    dot = {
        "Values": values,
        "Release": {"Namespace": NAMESPACE},
        "Chart": {"AppVersion": chart["appVersion"]},
    }
    return evaluate((CHART / "templates" / f"{name}.yaml").read_text(), dot)


def values(variant: str = "all") -> dict[str, Any]:
    """Return the chart's default values with the features of a variant."""
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    if variant != "all":
        found["features"] = {name: name == variant for name in found["features"]}
    return found


def schema() -> dict[str, Any]:
    """Return the schema of the chart's values: no key but those of values.yaml, no flag but the agent's."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    found = _shape(defaults)
    properties = found["properties"]
    properties["flags"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            flag.name: {"type": "string", "description": flag.help} | _FLAG_FORMS.get(flag.form.metavar, {})
            for flag in FLAGS
            if flag.name not in _ELSEWHERE and not flag.secret
        },
    }
    properties["image"]["properties"]["pullPolicy"] = {"enum": ["Always", "IfNotPresent", "Never"]}
    properties["image"]["properties"]["pullSecrets"] = {"type": "array", "items": {"type": "string"}}
    properties["apiServer"]["properties"]["port"] = {"type": "integer", "minimum": 1, "maximum": 65535}
    for free in (properties, properties["gobgp"]["properties"]):
        free["resources"] = {"type": "object"}
    properties["nodeSelector"] = {"type": "object", "additionalProperties": {"type": "string"}}
    properties["tolerations"] = {"type": "array", "items": {"type": "object"}}
    properties["global"] = {"type": "object"}  # helm gives it to every chart
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart kuberouterpy", **found}


def _shape(value: object) -> dict[str, Any]:
    match value:
        case dict():
            properties = {key: _shape(one) for key, one in value.items()}
            return {"type": "object", "additionalProperties": False, "properties": properties}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case list():
            return {"type": "array"}
    return {"type": "string"}


def plain(variant: str) -> str:
    """Return the manifest of a variant for ``kubectl apply -f``."""
    parts = [template(name, values(variant)).strip("\n") + "\n" for name in (*BASE, *FEATURES)]
    return f"# {VARIANTS[variant]}\n" + _MADE + "---\n".join(parts)


def rights() -> str:
    """Return the account and role of an agent with every feature, for a cluster under test."""
    found = values()
    found["features"] = dict.fromkeys(found["features"], True)
    return _MADE + "---\n".join(template(name, found).strip("\n") + "\n" for name in (*BASE, "role"))


def files() -> Iterator[tuple[Path, str]]:
    """Yield every file that is made, with its content."""
    yield ROOT.parent / "tests" / "e2e" / "rights.yaml", rights()
    yield CHART / "values.schema.json", json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    for name in BASE:
        yield ROOT / "base" / f"{name}.yaml", _MADE + template(name, values())
    yield ROOT / "base" / "kustomization.yaml", _MADE + _kustomization([f"{name}.yaml" for name in BASE])
    for variant, summary in VARIANTS.items():
        folder = ROOT / "overlays" / variant
        yield ROOT / f"{variant}.yaml", plain(variant)
        for name in FEATURES:
            yield folder / f"{name}.yaml", _MADE + template(name, values(variant))
        resources = ["../../base", *(f"{name}.yaml" for name in FEATURES)]
        yield folder / "kustomization.yaml", f"# {summary}\n" + _MADE + _kustomization(resources)


def _kustomization(resources: list[str]) -> str:
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    return yaml.safe_dump(head, sort_keys=False)


def main(arguments: list[str]) -> int:
    """Write, or check; return the exit code."""
    stale = [(path, text) for path, text in files() if not path.exists() or path.read_text() != text]
    for path, text in stale:
        if "--check" in arguments:
            sys.stderr.write(f"{path.relative_to(ROOT.parent)} is not what the chart says: run manifests/render.py\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 3 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
