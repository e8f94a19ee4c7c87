"""The parts of the cluster that are forks of the zygote: what each process does, as a function with an exit code."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import msgspec

from kuberouterpy.lab.topology import Topology


def agent(*arguments: str) -> int:
    """Be ``kuberouterpy run``."""
    from kuberouterpy import cli

    return cli.main(["run", *arguments])


def api(*arguments: str) -> int:
    """Be the API server."""
    from kuberouterpy.lab.api import __main__ as server

    return server.main(list(arguments))


def controllers(plan: str, logs: str) -> int:
    """Be the cluster's controllers and every node's kubelet: they share one responder, and threads cost nothing here."""
    from kuberouterpy.lab import assets, controllers, kubelet
    from kuberouterpy.lab.responder import Responder
    from kuberouterpy.log import configure

    configure()
    topology = msgspec.json.decode(plan, type=Topology)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    responder = Responder()
    config = controllers.Config(cluster_cidrs=topology.cluster_cidrs)
    threads = [
        threading.Thread(
            target=controllers.run,
            args=(topology.server, config, stop),
            kwargs={"client": assets.client(topology)},
            name="controllers",
        )
    ]
    for station in topology.nodes:
        node = kubelet.KubeletNode(
            name=station.name,
            netns=station.netns,
            addresses=tuple(address.address for address in station.addresses),
            directory=station.directory,
            conflist=f"{station.directory}/cni/net.d/10-kuberouter.conflist",
            zone=f"zone-{station.subnet.number}",
            logs=logs,
        )
        threads.append(
            threading.Thread(
                target=kubelet.run,
                args=(node, topology.server, stop),
                kwargs={"client": assets.client(topology), "responder": responder},
                name=f"kubelet-{station.name}",
            )
        )
    for thread in threads:
        thread.daemon = True
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join(10)
    return 0
