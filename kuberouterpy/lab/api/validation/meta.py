"""Metadata and label selectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kuberouterpy.lab.api.errors import JsonObject
from kuberouterpy.lab.api.resources import Resource
from kuberouterpy.lab.api.validation import formats
from kuberouterpy.lab.api.validation.report import Report

_ANNOTATIONS_LIMIT: Final = 256 * 1024
_NAMES: Final[dict[str, Callable[[str], list[str]]]] = {
    "services": formats.dns_1035_label,
    "namespaces": formats.dns_label,
    **{
        f"{plural}.rbac.authorization.k8s.io": formats.path_segment
        for plural in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
    },
}


def metadata(report: Report, resource: Resource, obj: JsonObject, old: JsonObject | None) -> None:
    """Check names, labels, annotations, owners and finalizers."""
    meta = obj["metadata"]
    if old is None:
        report.all("metadata.name", meta["name"], _NAMES.get(resource.key, formats.subdomain)(meta["name"]))
    labels(report, "metadata.labels", meta.get("labels") or {})
    annotations = meta.get("annotations") or {}
    for key in annotations:
        report.all("metadata.annotations", key, formats.qualified(key.lower()))
    if sum(len(key) + len(value) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        report.too_long("metadata.annotations", _ANNOTATIONS_LIMIT)
    for index, finalizer in enumerate(meta.get("finalizers") or []):
        report.all(f"metadata.finalizers[{index}]", finalizer, formats.qualified(finalizer))
    _owners(report, meta)
    if old is not None and meta.get("deletionTimestamp"):
        known = set(old["metadata"].get("finalizers") or [])
        if added := [one for one in meta.get("finalizers") or [] if one not in known]:
            report.forbidden(
                "metadata.finalizers", f"no new finalizers can be added if the object is being deleted, found {added}"
            )


def _owners(report: Report, meta: JsonObject) -> None:
    controllers = 0
    for index, owner in enumerate(meta.get("ownerReferences") or []):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                report.invalid(f"metadata.ownerReferences[{index}].{field}", "", f"{field} must not be empty")
        controllers += bool(owner.get("controller"))
    if controllers > 1:
        text = "Only one reference can have Controller set to true"
        report.invalid("metadata.ownerReferences", meta["ownerReferences"], text)


def labels(report: Report, field: str, given: dict[str, str]) -> None:
    """Check keys and values of labels."""
    for key, value in given.items():
        report.all(field, key, formats.qualified(key))
        report.all(field, value, formats.label_value(value))


def selector(report: Report, field: str, given: JsonObject) -> None:
    """Check a ``matchLabels``/``matchExpressions`` selector."""
    labels(report, f"{field}.matchLabels", given.get("matchLabels") or {})
    for index, one in enumerate(given.get("matchExpressions") or []):
        place = f"{field}.matchExpressions[{index}]"
        operator, values = one.get("operator", ""), one.get("values") or []
        if operator in {"In", "NotIn"}:
            if not values:
                report.required(f"{place}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in {"Exists", "DoesNotExist"}:
            if values:
                report.forbidden(
                    f"{place}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                )
        else:
            report.invalid(f"{place}.operator", operator, "not a valid selector operator")
        report.all(f"{place}.key", one.get("key", ""), formats.qualified(one.get("key", "")))
        for number, value in enumerate(values):
            report.all(f"{place}.values[{number}]", value, formats.label_value(value))
