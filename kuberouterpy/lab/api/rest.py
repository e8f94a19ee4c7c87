"""Requests on resources: which verb, with which options, answered with which bytes. No sockets here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from kuberouterpy.lab.api import apply, decode, patch, reading, scale, watching
from kuberouterpy.lab.api.errors import (
    JsonObject,
    StatusError,
    bad_request,
    method_not_allowed,
    not_found,
    not_implemented,
    unsupported_media_type,
)
from kuberouterpy.lab.api.resources import Catalog
from kuberouterpy.lab.api.routes import Target
from kuberouterpy.lab.api.selectors import selection
from kuberouterpy.lab.api.storage import Entry, Storage, encode
from kuberouterpy.lab.api.wire import Request
from kuberouterpy.lab.api.writing import Options, Writer, Written

LogPath = Callable[[str, str, str], Path | None]
"""(namespace, pod, container) -> file with the container's output."""

_STREAMS: Final = frozenset({"exec", "attach", "portforward", "proxy"})


class Answer(msgspec.Struct, frozen=True):
    """An answer to a request."""

    code: int
    """HTTP status."""
    body: bytes
    """Body."""
    content_type: str = "application/json"
    """Its type."""
    headers: tuple[str, ...] = ()
    """Further header lines."""


class Rest:
    """The resource paths of the server."""

    def __init__(self, storage: Storage, catalog: Catalog, writer: Writer, *, log_path: LogPath | None = None) -> None:
        self._storage = storage
        self._catalog = catalog
        self._writer = writer
        self._log_path = log_path
        self.validate = True
        """Whether objects are checked; tests that must feed absurd objects switch it off."""

    def answer(self, request: Request, target: Target, user: str) -> Answer | watching.Request:
        """Return the answer, or the watch to run. Errors: StatusError."""
        if not target.resource.stored:
            return self._review(request, target, user)
        if target.subresource in _STREAMS:
            raise not_implemented(
                f"the lab's API server does not stream {target.subresource}; use: kuberouterpy lab exec "
                f"pod/{target.namespace}/{target.name} -- COMMAND"
            )
        match request.method:
            case "GET" | "HEAD":
                return self._read(request, target)
            case "POST":
                return self._post(request, target)
            case "PUT" | "PATCH" if target.name:
                return self._change(request, target)
            case "DELETE" if not target.subresource:
                return self._delete(request, target)
        raise method_not_allowed(f"{request.method} {request.path}")

    def _read(self, request: Request, target: Target) -> Answer | watching.Request:
        if target.subresource == "log":
            return self._log(request, target)
        if target.subresource == "scale":
            return _json(200, scale.shown(self._existing(target).obj))
        if target.subresource not in {"", "status"}:
            raise method_not_allowed(f"{request.method} {request.path}")
        shape = reading.form(request.headers.get("accept", ""), request.query.get("includeObject", ""))
        if request.flag("watch"):
            return watching.parse(target, request.query, shape)
        if target.name:
            body = reading.get(self._storage, target, shape)
        else:
            body = reading.listing(self._storage, target, request.query, shape)
        return _yaml(body) if shape.yaml else Answer(200, body)

    def _post(self, request: Request, target: Target) -> Answer:
        obj = self._body(request)
        options = self._options(request)
        if target.subresource == "binding":
            return self._bind(target, obj, options)
        if target.subresource == "eviction":
            asked = (obj.get("deleteOptions") if isinstance(obj, dict) else None) or {}
            self._writer.delete(_whole(target), asked, options)
            return _json(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
        if target.name:
            raise method_not_allowed(f"{request.method} {request.path}")
        return self._written(request, target, self._writer.create(target, obj, options))

    def _change(self, request: Request, target: Target) -> Answer:
        options = self._options(request)
        content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "PATCH" and content == patch.APPLY_PATCH:
            return self._apply(request, target, options)
        data = self._body(request)
        change = _replacement(data) if request.method == "PUT" else _patching(target, content, data)
        if target.subresource == "scale":
            target = _whole(target)
            change = apply.tracking(scale.change(change), options.manager, target)
            scaled = self._writer.update(target, change, options, patch=True)
            assert isinstance(scaled.body, Entry)
            return _json(200, scale.shown(scaled.body.obj))
        if target.subresource == "finalize":
            target = _whole(target)
        change = apply.tracking(change, options.manager, target)
        return self._written(
            request, target, self._writer.update(target, change, options, patch=request.method == "PATCH")
        )

    def _apply(self, request: Request, target: Target, options: Options) -> Answer:
        """Server-side apply: create what is missing, merge into what is there."""
        if "fieldManager" not in request.query:
            raise bad_request(
                "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
            )
        wanted = decode.body(request.body, "application/yaml")
        with self._writer.exclusive():
            exists = self._storage.get(target.resource.key, target.key) is not None
            change = apply.change(target, wanted, manager=options.manager, force=request.flag("force"))
            if exists:
                written = self._writer.update(target, change, options, patch=True)
            elif target.subresource:
                raise not_found(target.resource.group, target.resource.plural, target.name)
            else:
                fresh = {"metadata": {"name": target.name}}
                written = self._writer.create(msgspec.structs.replace(target, name=""), change(fresh), options)
        return self._written(request, target, written)

    def _delete(self, request: Request, target: Target) -> Answer:
        asked = decode.body(request.body, request.headers.get("content-type", "")) if request.body.strip() else {}
        asked = dict(asked) if isinstance(asked, dict) else {}
        if "gracePeriodSeconds" in request.query:
            asked.setdefault("gracePeriodSeconds", int(request.query["gracePeriodSeconds"] or 0))
        if "propagationPolicy" in request.query:
            asked.setdefault("propagationPolicy", request.query["propagationPolicy"])
        options = self._options(request)
        if asked.get("dryRun"):
            options = msgspec.structs.replace(options, dry_run=True)
        if target.name:
            return self._written(request, target, self._writer.delete(target, asked, options))
        return self._delete_collection(request, target, asked, options)

    def _delete_collection(self, request: Request, target: Target, asked: JsonObject, options: Options) -> Answer:
        if target.resource.namespaced and not target.namespace:
            raise method_not_allowed(f"DELETE {request.path} over all namespaces")
        chosen = selection(
            request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""), target.resource.key
        )
        items, _ = self._storage.items(target.resource.key, target.namespace)
        gone = []
        for key, entry in items:
            if chosen is None or chosen(entry.obj):
                one = msgspec.structs.replace(target, name=key[1], namespace=key[0])
                try:
                    self._writer.delete(one, asked, options)
                except StatusError as error:
                    if error.code != 404:
                        raise
                gone.append((key, entry))
        meta = {"resourceVersion": str(self._storage.version)}
        return Answer(200, reading.encoded(target.resource, gone, meta, reading.Form()))

    def _bind(self, target: Target, binding: Any, options: Options) -> Answer:
        node = ((binding if isinstance(binding, dict) else {}).get("target") or {}).get("name")
        if not isinstance(node, str) or not node:
            raise bad_request("binding without target.name")

        def bound(pod: JsonObject) -> JsonObject:
            if pod["spec"].get("nodeName"):
                raise StatusError(
                    409, "Conflict",
                    f'Operation cannot be fulfilled on pods/binding "{target.name}": pod {target.name} is already assigned '
                    f'to node "{pod["spec"]["nodeName"]}"',
                )  # fmt: skip
            pod["spec"]["nodeName"] = node
            return pod

        self._writer.update(msgspec.structs.replace(target, subresource="binding"), bound, options)
        return _json(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})

    def _log(self, request: Request, target: Target) -> Answer:
        pod = self._existing(_whole(target)).obj
        containers = [one.get("name") for one in (pod.get("spec") or {}).get("containers") or []]
        container = request.query.get("container") or (containers[0] if containers else "")
        path = self._log_path(target.namespace, target.name, container) if self._log_path else None
        if path is None:
            raise not_implemented(
                f"no log of pod/{target.namespace}/{target.name} here; use: kuberouterpy lab exec or lab logs"
            )
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            text = b""
        if (tail := request.query.get("tailLines", "")).isdigit():
            text = b"".join(text.splitlines(keepends=True)[-int(tail) :] if int(tail) else [])
        return Answer(200, text, "text/plain")

    def _review(self, request: Request, target: Target, user: str) -> Answer:
        if request.method != "POST":
            raise method_not_allowed(f"{request.method} {request.path}")
        obj = self._body(request)
        obj = obj if isinstance(obj, dict) else {}
        verdict: JsonObject = {"allowed": True, "reason": "the lab allows everything"}
        if target.resource.kind == "TokenReview":
            verdict = {"authenticated": True, "user": {"username": user, "groups": ["system:authenticated"]}}
        elif target.resource.kind == "SelfSubjectReview":
            verdict = {"userInfo": {"username": user, "groups": ["system:authenticated"]}}
        elif target.resource.kind == "SelfSubjectRulesReview":
            rule = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            verdict = {"resourceRules": [rule], "nonResourceRules": [], "incomplete": False}
        envelope = {"kind": target.resource.kind, "apiVersion": target.resource.api_version, "metadata": {}}
        return _json(201, {**envelope, "spec": obj.get("spec") or {}, "status": verdict})

    def _existing(self, target: Target) -> Entry:
        entry = self._storage.get(target.resource.key, target.key)
        if entry is None:
            raise not_found(target.resource.group, target.resource.plural, target.name)
        return entry

    def _body(self, request: Request) -> Any:
        return decode.body(request.body, request.headers.get("content-type", ""))

    def _options(self, request: Request) -> Options:
        dry = request.query.get("dryRun", "")
        if dry and dry != "All":
            raise bad_request(f'dryRun: Unsupported value: "{dry}": supported values: "All"')
        return Options(
            dry_run=bool(dry),
            strict=request.query.get("fieldValidation") or "Warn",
            manager=request.query.get("fieldManager") or request.agent.partition("/")[0] or "unknown",
            validate=self.validate and "x-lab-no-validation" not in request.headers,
        )

    def _written(self, request: Request, target: Target, written: Written) -> Answer:
        headers = tuple(f'Warning: 299 - "{_escaped(text)}"' for text in written.warnings)
        if not isinstance(written.body, Entry):
            return Answer(written.code, encode(written.body), headers=headers)
        try:
            shape = reading.form(request.headers.get("accept", ""), request.query.get("includeObject", ""))
        except StatusError:
            shape = reading.Form()
        body = reading.one(target.resource, written.body, shape)
        return Answer(written.code, body, headers=headers)


def _replacement(data: Any) -> Callable[[JsonObject], JsonObject]:
    return lambda _old: data


def _patching(target: Target, content: str, data: Any) -> Callable[[JsonObject], JsonObject]:
    from kuberouterpy.lab.api.schema import types

    kind = types.root(target.resource.api_version, target.resource.kind)
    if target.subresource == "scale":
        kind = "V1Scale"
    match content:
        case patch.JSON_PATCH:
            return lambda old: patch.json_patch(old, data)
        case patch.MERGE_PATCH:
            return lambda old: patch.merge(old, _object(data))
        case patch.STRATEGIC_PATCH if not target.resource.custom:
            return lambda old: patch.strategic(old, _object(data), kind)
    supported = tuple(one for one in patch.TYPES if not (target.resource.custom and one == patch.STRATEGIC_PATCH))
    raise unsupported_media_type(content, supported)


def _object(data: Any) -> JsonObject:
    if not isinstance(data, dict):
        raise bad_request("error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}")
    return data


def _whole(target: Target) -> Target:
    return msgspec.structs.replace(target, subresource="")


def _json(code: int, body: JsonObject) -> Answer:
    return Answer(code, encode(body))


def _yaml(body: bytes) -> Answer:
    import yaml

    return Answer(200, yaml.safe_dump(msgspec.json.decode(body), sort_keys=False).encode(), "application/yaml")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", " ").replace("\n", " ")
