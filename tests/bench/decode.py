"""How long a list of 10,000 pods and 10,000 slices takes to become records, against json.loads of the same bytes.

Run: ``python tests/bench/decode.py``. Prints figures; asserts nothing.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable

import msgspec

from kuberouterpy.cluster import EndpointSlice, Kind, Pod
from kuberouterpy.sources import wire
from kuberouterpy.sources.decode import decode

COUNT = 10_000
PAGE = 500


def pod(number: int) -> dict[str, object]:
    """Return a pod of the size that real ones have (about 6 kB)."""
    return {
        "metadata": {
            "name": f"web-{number}",
            "namespace": f"team-{number % 50}",
            "uid": f"00000000-0000-0000-0000-{number:012}",
            "resourceVersion": str(number),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": f"app-{number % 200}", "pod-template-hash": f"{number % 200:x}", "tier": "front"},
            "annotations": {"checksum/config": "f" * 64},
            "managedFields": [
                {"manager": "kubelet", "fieldsV1": {f"f:field{i}": {"f:x": {}, "f:y": {}} for i in range(60)}}
            ],
        },
        "spec": {
            "nodeName": f"node-{number % 100}",
            "containers": [
                {
                    "name": "main",
                    "image": "registry.example/web:1",
                    "env": [{"name": f"VARIABLE_{i}", "value": "value" * 4} for i in range(30)],
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                    "volumeMounts": [{"name": f"v{i}", "mountPath": f"/var/lib/{i}"} for i in range(5)],
                }
            ],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}] * 2,
        },
        "status": {
            "phase": "Running",
            "podIP": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
            "podIPs": [{"ip": f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"}, {"ip": f"fd00::{number:x}"}],
            "conditions": [{"type": t, "status": "True"} for t in ("Ready", "Initialized", "PodScheduled")],
        },
    }


def endpoint_slice(number: int) -> dict[str, object]:
    """Return a slice with ten endpoints."""
    return {
        "metadata": {
            "name": f"web-{number}-abcde",
            "namespace": f"team-{number % 50}",
            "labels": {"kubernetes.io/service-name": f"web-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [f"10.{number >> 8 & 255}.{number & 255}.{i + 1}"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{i}",
                "targetRef": {"kind": "Pod", "name": f"web-{number}-{i}", "namespace": f"team-{number % 50}"},
            }
            for i in range(10)
        ],
    }


def pages(kind: Kind, make: Callable[[int], dict[str, object]]) -> list[bytes]:
    """Return the list as the API would send it, in pages."""
    return [
        json.dumps(
            {
                "kind": f"{kind.__name__}List",
                "metadata": {"resourceVersion": "1"},
                "items": [make(number) for number in range(first, first + PAGE)],
            }
        ).encode()
        for first in range(0, COUNT, PAGE)
    ]


def records(kind: Kind, bodies: list[bytes]) -> list[object]:
    """Return the records of all pages."""
    lists = msgspec.json.Decoder(wire.List)
    return [decode(kind, raw, node_name="node-1").record for body in bodies for raw in lists.decode(body).items or ()]


def timed(name: str, work: Callable[[], object], size_mb: float) -> None:
    """Print one line."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = work()
    took = time.perf_counter() - begun
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{name:32} {took:6.2f} s   {took / COUNT * 1e6:6.0f} us/object   +{grown_mb:4.0f} MB peak   ({size_mb:.0f} MB of JSON)"
    )
    del kept


def main() -> None:
    """Print the table."""
    for kind, make in ((Pod, pod), (EndpointSlice, endpoint_slice)):
        bodies = pages(kind, make)
        size_mb = sum(map(len, bodies)) / 2**20
        timed(f"{kind.__name__}: records", lambda kind=kind, bodies=bodies: records(kind, bodies), size_mb)
        timed(f"{kind.__name__}: json.loads only", lambda bodies=bodies: [json.loads(body) for body in bodies], size_mb)


if __name__ == "__main__":
    main()
