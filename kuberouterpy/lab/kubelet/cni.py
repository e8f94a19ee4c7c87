"""A small CNI runtime: runs the plugins of a conflist, in order for ADD, in reverse for DEL.

Promises: the real plugin programs, started inside the node's network namespace, with what the CNI specification gives them:
the environment, their own part of the list on standard input, ``prevResult`` chained, and ``runtimeConfig`` for the
capabilities they declare. One thing is added: the nodes of a lab share one file system, so ``host-local`` gets a
``dataDir`` per node where the list names none, or two nodes would count the same addresses. And one is left out: ``portmap`` is
not started for a pod without host ports, where it would return what it got.
Source: CNI specification 1.0.0, sections 2 to 4.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from kuberouterpy.errors import LabError
from kuberouterpy.lab.client import Object
from kuberouterpy.lab.kubelet import netns
from kuberouterpy.log import event

IFNAME: Final = "eth0"
_PATH: Final = "/opt/cni/bin:/usr/lib/cni"
_TIMEOUT_S: Final = 60.0

log = logging.getLogger(__name__)


class CniError(LabError):
    """A plugin failed or the list cannot be used."""


class Attachment(msgspec.Struct, frozen=True):
    """Which pod is attached, and where its plugins run."""

    container_id: str
    """Identity of the sandbox; the pod's uid."""
    netns: str
    """The pod's network namespace."""
    node_netns: str
    """The node's: plugins run there."""
    data_dir: str
    """Where host-local keeps this node's addresses."""
    args: tuple[tuple[str, str], ...] = ()
    """CNI_ARGS, as K8S_POD_NAME."""
    capabilities: tuple[tuple[str, Any], ...] = ()
    """Values by capability, as ``portMappings``."""


def load(path: str) -> Object:
    """Return the list in a .conflist file, or the list of one that a .conf file makes.

    Errors: CniError names the file and what is wrong.
    """
    try:
        read = msgspec.json.decode(Path(path).read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise CniError(f"CNI configuration {path}: {error}") from error
    if not isinstance(read, dict) or not read.get("name"):
        raise CniError(f"CNI configuration {path}: no name")
    if "plugins" not in read:
        return {"cniVersion": read.get("cniVersion", "0.2.0"), "name": read["name"], "plugins": [read]}
    plugins = read["plugins"]
    if not isinstance(plugins, list) or not all(isinstance(one, dict) and one.get("type") for one in plugins):
        raise CniError(f"CNI configuration {path}: plugins without type")
    return read


def plugin_config(conflist: Object, plugin: Object, attachment: Attachment, previous: Object | None) -> Object:
    """Return what one plugin reads on standard input."""
    config = {**plugin, "cniVersion": conflist.get("cniVersion", "0.2.0"), "name": conflist["name"]}
    declared = config.pop("capabilities", None) or {}
    runtime = {name: value for name, value in attachment.capabilities if declared.get(name)}
    if runtime:
        config["runtimeConfig"] = runtime
    ipam = config.get("ipam")
    if isinstance(ipam, dict) and ipam.get("type") == "host-local" and not ipam.get("dataDir"):
        config["ipam"] = {**ipam, "dataDir": attachment.data_dir}
    if previous is not None:
        config["prevResult"] = previous
    return config


def add(conflist: Object, attachment: Attachment) -> Object:
    """Attach; return the last plugin's result. Errors: CniError; what was done by then is to be undone by ``delete``."""
    result: Object | None = None
    for plugin in _busy(conflist, attachment):
        output = _run("ADD", plugin, plugin_config(conflist, plugin, attachment, result), attachment)
        try:
            result = msgspec.json.decode(output)
        except msgspec.DecodeError as error:
            raise CniError(f"CNI plugin {plugin['type']} ADD: result is no JSON: {error}") from error
    return result or {}


def delete(conflist: Object, attachment: Attachment, result: Object | None) -> None:
    """Detach: every plugin is tried, in reverse. Errors: CniError of the first that failed."""
    first: CniError | None = None
    for plugin in reversed(_busy(conflist, attachment)):
        try:
            _run("DEL", plugin, plugin_config(conflist, plugin, attachment, result), attachment)
        except CniError as error:
            first = first or error
    if first is not None:
        raise first


def addresses(result: Object) -> list[str]:
    """Return the pod's addresses in a result, without prefix lengths, in the plugin's order."""
    return [one["address"].partition("/")[0] for one in result.get("ips") or []]


def port_mappings(pod: Object) -> list[Object]:
    """Return the host ports of a pod as the portMappings capability has them."""
    containers = pod["spec"].get("containers") or []
    ports = [port for one in containers for port in one.get("ports") or [] if port.get("hostPort")]
    return [
        {
            "hostPort": port["hostPort"],
            "containerPort": port["containerPort"],
            "protocol": port.get("protocol", "TCP").lower(),
            **({"hostIP": port["hostIP"]} if port.get("hostIP") else {}),
        }
        for port in ports
    ]


def _busy(conflist: Object, attachment: Attachment) -> list[Object]:
    """Return the plugins that have work: portmap has none for a pod without host ports, and a start costs 100 ms in a guest."""
    mapped = any(name == "portMappings" for name, _value in attachment.capabilities)
    return [plugin for plugin in conflist["plugins"] if mapped or plugin["type"] != "portmap"]


def _run(command: str, plugin: Object, config: Object, attachment: Attachment) -> bytes:
    began = time.monotonic()
    directories = os.environ.get("CNI_PATH", _PATH)
    program = _find(plugin["type"], directories.split(":"))
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": attachment.container_id,
        "CNI_NETNS": attachment.netns,
        "CNI_IFNAME": IFNAME,
        "CNI_PATH": directories,
        "CNI_ARGS": ";".join(f"{name}={value}" for name, value in attachment.args),
        "GOMAXPROCS": "1",  # the guest has one CPU; Go's idle threads only cost there
    }
    with netns.entered(attachment.node_netns):
        process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    try:
        output, errors = process.communicate(msgspec.json.encode(config), timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise CniError(f"CNI plugin {plugin['type']} {command}: no answer in {_TIMEOUT_S:.0f} s") from None
    took_ms = round((time.monotonic() - began) * 1000)
    event(log, logging.DEBUG, "cni", verb=command, kind=plugin["type"], key=attachment.container_id, took_ms=took_ms)
    if process.returncode != 0:
        raise CniError(f"CNI plugin {plugin['type']} {command}: {_complaint(output, errors)}")
    return output


def _find(name: str, directories: Iterable[str]) -> str:
    if "/" not in name:
        for directory in directories:
            program = os.path.join(directory, name)
            if os.access(program, os.X_OK):
                return program
    raise CniError(
        f"CNI plugin {name}: not found in {':'.join(directories)}; apt-get install containernetworking-plugins"
    )


def _complaint(output: bytes, errors: bytes) -> str:
    try:
        answer = msgspec.json.decode(output)
        return f"{answer['msg']} {answer.get('details', '')}".strip()
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return (errors or output).decode(errors="replace").strip()[-500:] or "failed without a word"
