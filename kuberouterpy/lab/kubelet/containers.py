"""What a container is told: its command and its environment. Pure.

Images are ignored: a container is its ``command`` and ``args`` run in the pod's network namespace, or the built-in
responder where it has no command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from kuberouterpy.lab.client import Object
from kuberouterpy.lab.responder import Port

_REFERENCE: Final = re.compile(r"\$(\$|\(([^()]*)\))")
_SUBSCRIPT: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class Facts(msgspec.Struct, frozen=True):
    """What the downward API may ask for beyond the pod's own fields."""

    pod_ips: tuple[str, ...]
    """The pod's addresses, in order."""
    host_ips: tuple[str, ...]
    """The node's addresses, in order."""


def environment(pod: Object, container: Object, facts: Facts) -> dict[str, str]:
    """Return the container's environment: ours, then its ``env`` in order, each seeing those before it."""
    spec, meta = pod["spec"], pod["metadata"]
    made = {
        "PATH": os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "HOSTNAME": spec.get("nodeName", "") if spec.get("hostNetwork") else spec.get("hostname") or meta["name"],
    }
    for one in container.get("env") or []:
        source = one.get("valueFrom")
        if source is None:
            made[one["name"]] = expand(str(one.get("value") or ""), made)
        elif source.get("fieldRef"):
            made[one["name"]] = field(pod, source["fieldRef"].get("fieldPath", ""), facts)
    return made


def argv(container: Object, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the command with its arguments; empty where the container has no command."""
    if not container.get("command"):
        return ()
    return tuple(expand(str(word), variables) for word in [*container["command"], *(container.get("args") or [])])


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return the text with ``$(NAME)`` replaced; unknown names stay as they are, and ``$$`` is one dollar sign."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else variables.get(match[2], match[0])

    return _REFERENCE.sub(value, text)


def field(pod: Object, path: str, facts: Facts) -> str:
    """Return the value of a downward API field path; empty for one that is not known."""
    subscript = _SUBSCRIPT.fullmatch(path)
    if subscript:
        return str((pod["metadata"].get(subscript[1]) or {}).get(subscript[2], ""))
    lists = {"status.podIP": facts.pod_ips[:1], "status.podIPs": facts.pod_ips}
    lists |= {"status.hostIP": facts.host_ips[:1], "status.hostIPs": facts.host_ips}
    if path in lists:
        return ",".join(lists[path])
    section, _dot, name = path.partition(".")
    value = (pod.get(section) or {}).get(name, "") if section in {"metadata", "spec"} else ""
    return value if isinstance(value, str) else ""


def responder_ports(container: Object) -> tuple[Port, ...]:
    """Return what the built-in responder listens on for a container."""
    found = [Port(port.get("protocol", "TCP"), port["containerPort"]) for port in container.get("ports") or []]
    return tuple(dict.fromkeys(found))


def is_sidecar(container: Object) -> bool:
    """Return whether an init container stays while the pod lives."""
    return container.get("restartPolicy") == "Always"


def port_number(container: Object, port: int | str) -> int:
    """Return the number of a probe's port, which may be one of the container's names. Errors: ValueError."""
    if isinstance(port, int):
        return port
    for one in container.get("ports") or []:
        if one.get("name") == port:
            return int(one["containerPort"])
    if port.isdecimal():
        return int(port)
    raise ValueError(f"container {container.get('name')} has no port named {port!r}")
