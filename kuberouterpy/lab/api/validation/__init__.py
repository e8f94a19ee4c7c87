"""What a real API server refuses with 422, for the kinds that reach the agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.resources import CRD_KEY, Resource
from kuberouterpy.lab.api.validation import custom, meta, network, services, workloads
from kuberouterpy.lab.api.validation.report import Problem, Report

_BY_KEY: Final[dict[str, Callable[[Report, JsonObject, JsonObject | None], None]]] = {
    "services": services.check,
    "pods": workloads.check_pod,
    "nodes": workloads.check_node,
    "endpoints": network.check_endpoints,
    "endpointslices.discovery.k8s.io": network.check_slice,
    "networkpolicies.networking.k8s.io": network.check_policy,
    "deployments.apps": workloads.check_template,
    "replicasets.apps": workloads.check_template,
    "daemonsets.apps": workloads.check_template,
    "statefulsets.apps": workloads.check_template,
    CRD_KEY: custom.check_definition,
}


def check(resource: Resource, obj: JsonObject, old: JsonObject | None) -> list[Problem]:
    """Return everything wrong with an object; ``old`` is what it replaces."""
    report = Report()
    meta.metadata(report, resource, obj, old)
    if resource.schema:
        custom.check_value(report, "", obj, resource.schema)
    elif function := _BY_KEY.get(resource.key):
        function(report, obj, old)
    return report.problems
