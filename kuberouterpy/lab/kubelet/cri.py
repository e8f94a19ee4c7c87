"""The container runtime's API as far as an agent asks it: which pods are here, and where their network namespaces are.

Served on a unix socket of the node, by the same proto that the agent's client has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import msgspec

from kuberouterpy.cri import cri_pb2 as pb
from kuberouterpy.cri.client import SERVICE
from kuberouterpy.lab.kubelet.sandbox import Sandbox

Sandboxes = Callable[[], Iterable[Sandbox]]
_OPTIONS: Final = (("grpc.so_reuseport", 0),)


def serve(socket: str, sandboxes: Sandboxes) -> grpc.Server:
    """Answer on ``socket`` for the pods that ``sandboxes`` returns, until the server is stopped."""
    Path(socket).parent.mkdir(parents=True, exist_ok=True)
    Path(socket).unlink(missing_ok=True)
    server = grpc.server(ThreadPoolExecutor(max_workers=1), options=_OPTIONS)
    server.add_generic_rpc_handlers((_handlers(sandboxes),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


def _handlers(sandboxes: Sandboxes) -> grpc.GenericRpcHandler[Any, Any]:
    def listed(request: pb.ListPodSandboxRequest, _: grpc.ServicerContext) -> pb.ListPodSandboxResponse:
        return pb.ListPodSandboxResponse(items=[pb.PodSandbox(id=one.uid, metadata=_named(one)) for one in sandboxes()])

    def status(request: pb.PodSandboxStatusRequest, context: grpc.ServicerContext) -> pb.PodSandboxStatusResponse:
        for one in sandboxes():
            if one.uid == request.pod_sandbox_id:
                return _status(one, verbose=request.verbose)
        context.abort(grpc.StatusCode.NOT_FOUND, f"no sandbox {request.pod_sandbox_id}")
        raise AssertionError("abort raises")

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "ListPodSandbox": _method(listed, pb.ListPodSandboxRequest),
            "PodSandboxStatus": _method(status, pb.PodSandboxStatusRequest),
        },
    )


def _method(function: Callable[..., object], request: type) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        function,
        request_deserializer=request.FromString,  # type: ignore[attr-defined]
        response_serializer=lambda reply: reply.SerializeToString(),
    )


def _named(one: Sandbox) -> pb.PodSandboxMetadata:
    return pb.PodSandboxMetadata(name=one.name, namespace=one.namespace, uid=one.uid)


def _status(one: Sandbox, *, verbose: bool) -> pb.PodSandboxStatusResponse:
    first, *others = one.own_addresses or ("",)
    network = pb.PodSandboxNetworkStatus(ip=first, additional_ips=[pb.PodIP(ip=other) for other in others])
    pinned = [{"type": "network", "path": one.netns}] if one.own_addresses else []
    told = msgspec.json.encode({"pid": 0, "runtimeSpec": {"linux": {"namespaces": pinned}}}).decode()
    status = pb.PodSandboxStatus(id=one.uid, metadata=_named(one), network=network)
    return pb.PodSandboxStatusResponse(status=status, info={"info": told} if verbose else {})
