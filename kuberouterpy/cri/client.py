"""Which network namespace belongs to a pod's address, asked of the container runtime on its unix socket.

What a runtime tells of a sandbox in its verbose status (containerd and CRI-O alike, shortened)::

    {"pid": 4711, "runtimeSpec": {"linux": {"namespaces": [{"type": "network", "path": "/var/run/netns/cni-3f0a"}]}}}

A sandbox keeps its addresses and its namespace for life, so each is asked for once. Pods on the host network have none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import grpc
import msgspec

from kuberouterpy.cri import cri_pb2 as pb
from kuberouterpy.errors import KubeRouterError
from kuberouterpy.family import canonical_address

SERVICE: Final = "runtime.v1.RuntimeService"
ENDPOINTS: Final = ("unix:///run/containerd/containerd.sock", "unix:///run/crio/crio.sock")
"""Where runtimes listen; the first that is there is asked."""
TIMEOUT_S: Final = 2.0

# A Go server refuses the socket's path as an authority.
_OPTIONS: Final = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))


class CriError(KubeRouterError):
    """The container runtime could not be asked; the message names the socket and the mend."""


class _Namespace(msgspec.Struct):
    type: str = ""
    path: str = ""


class _Linux(msgspec.Struct):
    namespaces: list[_Namespace] = []


class _Spec(msgspec.Struct):
    linux: _Linux = msgspec.field(default_factory=_Linux)


class _Verbose(msgspec.Struct, rename={"runtime_spec": "runtimeSpec"}):
    pid: int = 0
    runtime_spec: _Spec = msgspec.field(default_factory=_Spec)


class Runtime:
    """The container runtime of this node. One thread at a time."""

    def __init__(self, endpoint: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        """``endpoint``: as ``--runtime-endpoint`` has it, a path or a ``unix://`` URL; empty: one of :data:`ENDPOINTS`."""
        self._endpoints = (endpoint,) if endpoint else ENDPOINTS
        self._timeout_s = timeout_s
        self._known: dict[str, dict[str, tuple[str, ...]]] = {}
        """Namespaces of each sandbox by pod address."""

    def namespaces(self) -> Mapping[str, Sequence[str]]:
        """Return where the network namespace of each pod of this node may be found, by every address of the pod.

        Of several paths the first that is there counts. Errors: CriError.
        """
        socket = self._socket()
        try:
            with grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
                return self._ask(channel)
        except grpc.RpcError as error:
            told = error.details() or error.code().name.lower()
            raise CriError(f"ask the container runtime on {socket}: {told}") from None

    def _socket(self) -> str:
        paths = [one.removeprefix("unix://") for one in self._endpoints]
        for path in paths:
            if os.path.exists(path):
                return path
        looked = " nor ".join(paths)
        raise CriError(
            f"no container runtime on {looked}; set dsr.enabled in the chart, or name its socket with --runtime-endpoint"
        )

    def _ask(self, channel: grpc.Channel) -> dict[str, Sequence[str]]:
        ready = pb.PodSandboxFilter(state=pb.PodSandboxStateValue(state=0))
        listed = pb.ListPodSandboxResponse.FromString(
            self._call(channel, "ListPodSandbox", pb.ListPodSandboxRequest(filter=ready).SerializeToString())
        )
        known, self._known = self._known, {}
        for item in listed.items:
            if item.state:  # not ready: its namespace is gone, or will be
                continue
            found = known.get(item.id) or self._status(channel, item.id)
            if found:
                self._known[item.id] = found
        return {address: paths for one in self._known.values() for address, paths in one.items()}

    def _status(self, channel: grpc.Channel, identity: str) -> dict[str, tuple[str, ...]]:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=identity, verbose=True)
        try:
            raw = self._call(channel, "PodSandboxStatus", request.SerializeToString())
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:  # it went in this moment
                return {}
            raise
        reply = pb.PodSandboxStatusResponse.FromString(raw)
        network = reply.status.network
        paths = tuple(_paths(reply.info.get("info", "")))
        addresses = (network.ip, *(one.ip for one in network.additional_ips))
        return {canonical_address(one): paths for one in addresses if one} if paths else {}

    def _call(self, channel: grpc.Channel, method: str, request: bytes) -> bytes:
        rpc = channel.unary_unary(f"/{SERVICE}/{method}", request_serializer=bytes, response_deserializer=bytes)
        answer: bytes = rpc(request, timeout=self._timeout_s)
        return answer


def _paths(verbose: str) -> Iterator[str]:
    """Yield paths of a sandbox's network namespace, best first: a pin, then its first process."""
    try:
        told = msgspec.json.decode(verbose, type=_Verbose)
    except msgspec.DecodeError:
        return
    yield from (one.path for one in told.runtime_spec.linux.namespaces if one.type == "network" and one.path)
    if told.pid > 0:
        yield f"/proc/{told.pid}/ns/net"
