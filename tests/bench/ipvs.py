"""Compare the IPVS driver with ``ipvsadm`` on the same content, in a network namespace of its own, in one run.

    python tests/bench/ipvs.py [--services 1000] [--endpoints 10]

Needs root and a kernel with IPVS. Times depend on the machine; the ratios are what counts: above 1 the driver is faster.
Listings are the best of three.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import time
from collections.abc import Callable, Iterator

from kuberouterpy.dataplane import Object, Op, RealServer, RealServerKey, Verb, VirtualServer, VirtualServerKey
from kuberouterpy.drivers.ipvs import IpvsDriver
from kuberouterpy.family import IPV4
from kuberouterpy.protocol import Protocol

_CLONE_NEWNET = 0x40000000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--services", type=int, default=1000)
    arguments.add_argument("--endpoints", type=int, default=10)
    wanted = arguments.parse_args()
    content = list(objects(wanted.services, wanted.endpoints))
    script = "".join(lines(content))
    print(f"{wanted.services} services x {wanted.endpoints} endpoints = {len(content)} objects")

    fresh_namespace()
    tool = seconds(lambda: run("ipvsadm", "-R", text=script))
    tool_list = min(seconds(lambda: run("ipvsadm", "-Sn")) for _ in range(3))
    judged = sorted(run("ipvsadm", "-Sn").splitlines())

    fresh_namespace()
    driver = IpvsDriver(lambda key: True)
    driver.check()
    create = [Op(Verb.CREATE, item.key, item) for item in content]
    ours = seconds(lambda: outcomes(driver, create))
    ours_list = min(seconds(driver.list) for _ in range(3))
    if sorted(run("ipvsadm", "-Sn").splitlines()) != judged:
        raise SystemExit("the driver and ipvsadm did not make the same table")
    if driver.list() != {item.key: item for item in content}:
        raise SystemExit("the driver does not list what it made")
    again = seconds(lambda: outcomes(driver, create))
    delete = [Op(Verb.DELETE, item.key, None) for item in content if isinstance(item, VirtualServer)]
    gone = seconds(lambda: outcomes(driver, delete))
    driver.close()

    report("create", len(content), ours, tool)
    report("list", len(content), ours_list, tool_list)
    report("create again", len(content), again)
    report("delete services", len(delete), gone)


def fresh_namespace() -> None:
    """Move this process into a new network namespace.

    Emptying the table would not do: the kernel keeps deleted destinations for two minutes and searches them for each new one
    (ip_vs_ctl.c: ip_vs_trash_get_dest), so whoever comes second would pay for the first.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise SystemExit("cannot make a network namespace: run as root")
    run("ip", "link", "set", "lo", "up")  # without a local table the kernel takes no address for unicast


def objects(services: int, endpoints: int) -> Iterator[Object]:
    """Yield the content, each virtual server before its real servers."""
    for n in range(services):
        key = VirtualServerKey(IPV4, Protocol.TCP, f"10.{96 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", 80)
        yield VirtualServer(key)
        for m in range(endpoints):
            yield RealServer(RealServerKey(key, f"10.{m >> 8 & 63}.{m & 255}.{n % 251 + 1}", 8080))


def lines(content: list[Object]) -> Iterator[str]:
    """Yield the same content in the words of ``ipvsadm -R``."""
    for item in content:
        match item:
            case VirtualServer(key=key):
                yield f"-A -t {key.address}:{key.port} -s {item.scheduler}\n"
            case RealServer(key=key):
                server = key.server
                yield f"-a -t {server.address}:{server.port} -r {key.address}:{key.port} -m -w {item.weight}\n"


def outcomes(driver: IpvsDriver, ops: list[Op]) -> None:
    for op, error in driver.apply(ops):
        if error is not None:
            raise SystemExit(f"{op.key}: {error}")


def run(*command: str, text: str = "") -> str:
    return subprocess.run(command, check=True, input=text, capture_output=True, text=True).stdout


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(name: str, count: int, ours: float, tool: float | None = None) -> None:
    line = f"{name:16} driver {ours:7.3f} s {count / ours:9.0f}/s"
    print(line if tool is None else f"{line}   ipvsadm {tool:7.3f} s {count / tool:9.0f}/s   ratio {tool / ours:5.1f}")


if __name__ == "__main__":
    main()
