"""``python -m kuberouterpy.lab.api``: an API server of its own process, with a kubeconfig for it."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import signal
import sys
import threading
from pathlib import Path

from kuberouterpy.lab.api.config import Config
from kuberouterpy.lab.api.server import ApiServer


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    options = _parser().parse_args(arguments)
    config = Config(
        listen=tuple(map(_address, options.listen or ["127.0.0.1:0"])),
        listen_open=tuple(map(_address, options.listen_open)),
        service_cidrs=tuple(map(ipaddress.ip_network, ",".join(options.service_cidr or ["10.96.0.0/16"]).split(","))),
        node_ports=_range(options.service_node_port_range),
        advertise=tuple(map(_advertised, options.advertise)),
        data=options.data,
        window=options.window,
        validate=not options.no_validation,
        token_file=options.token_file,
        audit_log=options.audit_log,
    )
    logs: Path | None = options.pod_log_dir
    server = ApiServer(config, log_path=(lambda ns, pod, name: logs / ns / pod / f"{name}.log") if logs else None)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    try:
        server.start()
    except OSError as error:
        sys.stderr.write(f"api server: listen on {options.listen}: {error}\n")
        return 1
    if options.kubeconfig:
        write_kubeconfig(options.kubeconfig, server.open_url, token=options.token)
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    done.wait()
    server.stop()
    return 0


def write_kubeconfig(path: Path, url: str, *, token: str = "", authority: str = "") -> None:
    """Write a kubeconfig (JSON, which is YAML) for a server, in one step; ``authority`` is base64 of what to trust."""
    user = {"token": token} if token else {}
    cluster = {"server": url} | ({"certificate-authority-data": authority} if authority else {})
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(body, indent=1) + "\n")
    fresh.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kuberouterpy.lab.api", description="The lab's API server.")
    parser.add_argument("--listen", action="append", metavar="HOST:PORT", help="address to serve; may be repeated")
    parser.add_argument(
        "--listen-open", action="append", default=[], metavar="HOST:PORT",
        help="address where no token is asked for (kubectl sends none over plain HTTP)",
    )  # fmt: skip
    parser.add_argument(
        "--service-cidr", action="append", metavar="CIDR[,CIDR]", help="service ranges, default family first"
    )
    parser.add_argument("--service-node-port-range", default="30000-32767", metavar="FIRST-LAST")
    parser.add_argument(
        "--advertise", action="append", default=[], metavar="HOST[:PORT]", help="endpoint of the kubernetes service"
    )
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="write a kubeconfig here")
    parser.add_argument("--data", type=Path, metavar="FILE", help="journal that outlives the process")
    parser.add_argument("--window", type=int, default=10_000, metavar="N", help="changes remembered for each resource")
    parser.add_argument("--no-validation", action="store_true", help="store whatever comes")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="bearer tokens, TOKEN[,USER] a line")
    parser.add_argument("--token", default="", help="token to put into the kubeconfig")
    parser.add_argument("--audit-log", type=Path, metavar="FILE", help="write a line for every request")
    parser.add_argument(
        "--pod-log-dir", type=Path, metavar="DIR", help="kubectl logs reads NAMESPACE/POD/CONTAINER.log here"
    )
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


def _advertised(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, int(port.lstrip(":") or 0)
    if text.count(":") == 1:
        return _address(text)
    return text, 0


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last)


if __name__ == "__main__":
    sys.exit(main())
