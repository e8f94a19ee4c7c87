"""kube-router's arguments and kube-proxy's configuration as flags of this agent, with everything that does not carry over.

Nothing is dropped in silence: a setting becomes a flag, or a difference with the reason; one that has its default is neither.
Source: kubernetes.io/docs/reference/config-api/kube-proxy-config.v1alpha1; kube-router's flags are ours (kuberouterpy.flags).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import yaml
from msgspec import Struct

from kuberouterpy.config import parse
from kuberouterpy.errors import ConfigError
from kuberouterpy.flags import BY_NAME, FLAGS, nearest


class Imported(Struct, frozen=True):
    """What a configuration becomes."""

    source: str
    """kube-router or kube-proxy."""
    flags: dict[str, str]
    """Flags of this agent, by name."""
    differences: tuple[tuple[str, str], ...]
    """Setting, and what is different here."""


_DEFAULTS: Final = {
    "bgp-graceful-restart": "off there unless given, on here: a restart keeps the routes",
    "strict-external-ip-validation": "on in both; kube-router before 2.8 accepted every external IP",
}
"""Flags whose default is another one than kube-router's, or was."""

_PROXY_FLAGS: Final = {
    "hostnameOverride": "hostname-override",
    "nodePortAddresses": "nodeport-addresses",
    "iptables.masqueradeAll": "masquerade-all",
    "linux.masqueradeAll": "masquerade-all",
    "nftables.masqueradeAll": "masquerade-all",
    "ipvs.excludeCIDRs": "excluded-cidrs",
    "ipvs.scheduler": "ipvs-scheduler",
    "ipvs.syncPeriod": "ipvs-sync-period",
    "ipvs.tcpTimeout": "service-tcp-timeout",
    "ipvs.tcpFinTimeout": "service-tcpfin-timeout",
    "ipvs.udpTimeout": "service-udp-timeout",
}
_EVENTS: Final = "changes are applied when they come, whole batches at once; there is no period to set"
_NODES: Final = "pod ranges are read from the Node objects"
_PROXY_DIFFERENCES: Final = {
    "mode": "always IPVS here",
    "clusterCIDR": _NODES,
    "detectLocal": _NODES,
    "detectLocalMode": _NODES,
    "clientConnection.kubeconfig": "that file is in kube-proxy's pod; the agent uses its own service account, or --kubeconfig",
    "clientConnection": "the agent's connection to the API has no such setting",
    "ipvs.strictARP": "always so here: a VIP is answered for only by the link it belongs to",
    "ipvs.minSyncPeriod": _EVENTS,
    "iptables.syncPeriod": _EVENTS,
    "iptables.minSyncPeriod": _EVENTS,
    "nftables.syncPeriod": _EVENTS,
    "nftables.minSyncPeriod": _EVENTS,
    "configSyncPeriod": _EVENTS,
    "iptables.masqueradeBit": "no packet mark is used to masquerade",
    "nftables.masqueradeBit": "no packet mark is used to masquerade",
    "iptables.localhostNodePorts": "node ports do not answer on 127.0.0.1 here, as in kube-proxy's IPVS mode",
    "healthzBindAddress": "here /healthz answers on every address; the port is --proxy-health-port",
    "conntrack": "limits and timeouts of conntrack are left as the node has them: set them with sysctl",
    "enableProfiling": "there is no profiler to serve",
    "enableContentionProfiling": "there is no profiler to serve",
    "bindAddress": "IPVS listens in the kernel; addresses of node ports: --nodeport-addresses",
    "bindAddressHardFail": "IPVS listens in the kernel",
    "portRange": "never used by kube-proxy either",
    "oomScoreAdj": "the pod's priority class decides",
    "logging": "see --v and --log-format",
    "featureGates": "there are no feature gates",
    "winkernel": "Linux only",
    "windows": "Linux only",
    "showHiddenMetricsForVersion": "no metric is hidden",
}
"""Setting, or the group it is in, to what is different; the longest name that fits counts."""
_HEAD: Final = frozenset({"apiVersion", "kind"})
_EVERYWHERE: Final = frozenset({"0.0.0.0", "[::]", ""})  # noqa: S104
_UNSET: Final[tuple[object, ...]] = (None, "", 0, False, [], {}, "0s")


def read(text: str) -> Imported:
    """Return what a file means: a kube-proxy ConfigMap or configuration, a kube-router DaemonSet, or kube-router's arguments.

    Errors: ConfigError where it is none of them.
    """
    documents = _documents(text)
    if documents is None:
        return of_kube_router(shlex.split(text, comments=True))
    for one in documents:
        if one.get("kind") == "KubeProxyConfiguration":
            return of_kube_proxy(one)
        if one.get("kind") == "ConfigMap":
            for content in (one.get("data") or {}).values():
                found = [each for each in _documents(content) or () if each.get("kind") == "KubeProxyConfiguration"]
                if found:
                    return of_kube_proxy(found[0])
    for one in documents:
        for container in _containers(one):
            words = [str(word) for word in (*(container.get("command") or ()), *(container.get("args") or ()))]
            if "kube-router" in f"{container.get('image', '')} {container.get('name', '')} {words[:1]}":
                return of_kube_router(words)
    kinds = ", ".join(sorted({str(one.get("kind", "no kind")) for one in documents})) or "nothing"
    raise ConfigError(
        f"holds {kinds}; give kube-router's arguments or DaemonSet, or kube-proxy's ConfigMap or configuration"
    )


def of_kube_router(words: Sequence[str]) -> Imported:
    """Return the flags that kube-router's arguments mean here: the same ones, where they have a meaning."""
    flags: dict[str, str] = {}
    differences: list[tuple[str, str]] = []
    for name, value in _arguments(words):
        flag = BY_NAME.get(name)
        if flag is None:
            hint = nearest(name)
            differences.append((f"--{name}", "no such flag" + (f"; the nearest is --{hint}" if hint else "")))
        elif flag.no_effect:
            differences.append((f"--{name}", flag.no_effect))
        else:
            flags[name] = f"{flags[name]},{value}" if flag.form.many and name in flags else value
    differences += [(f"--{name}", text) for name, text in _DEFAULTS.items() if name not in flags]
    return _checked("kube-router", flags, differences)


def of_kube_proxy(configuration: Mapping[str, Any]) -> Imported:
    """Return the flags that a KubeProxyConfiguration means here."""
    flags: dict[str, str] = {"run-router": "false", "run-firewall": "false"}
    differences: list[tuple[str, str]] = []
    for name, value in _settings(configuration):
        if value in _UNSET or name in _HEAD:
            continue
        address, _, port = str(value).rpartition(":")
        if name == "metricsBindAddress":
            flags |= {"metrics-addr": address.strip("[]"), "metrics-port": port}
        elif name == "healthzBindAddress" and address in _EVERYWHERE:
            flags["proxy-health-port"] = port
        elif name == "nodePortAddresses" and "primary" in value:
            differences.append((name, "primary: here every address of the node; name ranges in --nodeport-addresses"))
        elif name in _PROXY_FLAGS:
            flags[_PROXY_FLAGS[name]] = _text(value)
        elif not (name == "mode" and value == "ipvs"):
            differences.append((f"{name}: {_text(value)}", _difference(name)))
    return _checked("kube-proxy", flags, differences)


def _difference(name: str) -> str:
    groups = [name[: -len(rest)].rstrip(".") if rest else name for rest in _tails(name)]
    known = next((group for group in groups if group in _PROXY_DIFFERENCES), "")
    return _PROXY_DIFFERENCES.get(known, "not known here; nothing is done about it")


def _tails(name: str) -> Iterator[str]:
    """Yield what may be cut off the end of a name, shortest first: nothing, its last part, ..."""
    parts = name.split(".")
    for count in range(len(parts)):
        yield ".".join(parts[len(parts) - count :])


def _checked(source: str, flags: dict[str, str], differences: list[tuple[str, str]]) -> Imported:
    """Leave out values that cannot be read, and tell what the agent would refuse of the rest."""
    readable: dict[str, str] = {}
    for flag in FLAGS:
        if flag.name not in flags:
            continue
        value = flags[flag.name]
        try:
            for text in value.split(",") if flag.form.many else (value,):
                flag.form.read(text)
        except ValueError as error:
            differences.append((f"--{flag.name}={value}", str(error)))
        else:
            readable[flag.name] = value
    try:
        parse(readable)
    except ConfigError as error:
        differences += [("refused", line) for line in str(error).splitlines()]
    return Imported(source, readable, tuple(differences))


def _documents(text: str) -> list[dict[str, Any]] | None:
    """Return the objects of YAML or JSON, lists unfolded; None where the text is neither."""
    try:
        found = [one for one in yaml.safe_load_all(text) if one is not None]
    except yaml.YAMLError:
        return None
    if not found or not all(isinstance(one, dict) for one in found):
        return None
    return [each for one in found for each in (one["items"] if isinstance(one.get("items"), list) else [one])]


def _containers(one: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    spec: Any = one.get("spec") or {}
    spec = ((spec.get("template") or {}).get("spec") or spec) if isinstance(spec, dict) else {}
    yield from spec.get("containers") or ()


def _arguments(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield names and values of Go's flags: ``--name=value``, ``--name value``, ``--name`` for true; ``-v`` as well."""
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("-"):
            continue  # the program's own name
        name, given, value = word.lstrip("-").partition("=")
        flag = BY_NAME.get(name)
        if not given:
            takes = flag is not None and flag.form.metavar != "BOOL"
            follows = at < len(words) and not words[at].startswith("-")
            value = words[at] if takes and follows else "true"
            at += takes and follows
        yield name, value


def _settings(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting by its path: ``ipvs.scheduler``."""
    for name, value in group.items():
        if isinstance(value, dict) and value:
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join(map(_text, value))
        case _:
            return str(value)
