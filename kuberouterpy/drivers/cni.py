"""The CNI configuration file, from which the kubelet's runtime starts the bridge plugin for every pod.

What the agent sets: the bridge's name, the address ranges of the ``bridge`` plugin's ``host-local`` IPAM, and the MTU.
Everything else in an existing file - keys, plugins, their order - is kept. A missing file is made, so that a node needs no
init container. Both forms are understood: a list of plugins (``.conflist``) and a single plugin (``.conf``)::

    {"cniVersion": "1.0.0", "name": "kuberouterpy", "plugins": [
      {"type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": true, "hairpinMode": true, "mtu": 1500,
       "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1:2::/64"}]]}},
      {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}

Promises: the file is replaced whole (a new file, synced, renamed), so a runtime never reads half of it; a file that is not
JSON, or is not a bridge with host-local, is left alone and named. Deleting leaves the file: pods could not start without it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Final, TypeAlias

from kuberouterpy.dataplane import CniConfig, CniConfigKey, Key, Object, ObjectKind, Op, Verb
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, canonical_prefix, family_of

Json: TypeAlias = dict[str, object]

_VERSION: Final = "1.0.0"
"""What the plugins of Debian 12 (1.1.1) and every runtime in support understand."""
_MODE: Final = 0o644
_OF_THE_OLD_FORM: Final = ("subnet", "rangeStart", "rangeEnd", "gateway")
"""Keys that describe one range beside the others in host-local's IPAM; they are moved into ``ranges``."""


class CniDriver:
    """Keeps CNI configuration files; nothing marks one as ours, so only paths that were asked for are listed."""

    name = "cni"
    kinds: tuple[ObjectKind, ...] = (CniConfig,)

    def __init__(self) -> None:
        self._wanted: dict[CniConfigKey, CniConfig] = {}

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell what will be wanted, so that the first listing can say what is already so."""
        self._wanted |= {value.key: value for value in wanted if isinstance(value, CniConfig)}

    def list(self) -> Mapping[Key, Object]:
        """Return what the known files say; one that is missing or unusable is left out, and writing it tells why."""
        found: dict[Key, Object] = {}
        for key, wanted in self._wanted.items():
            with suppress(DriverError):
                document = _read(key.path)
                if document is not None:
                    found[key] = _described(document, wanted)
        return found

    def apply(self, ops: Sequence[Op]) -> Iterator[tuple[Op, DriverError | None]]:
        """Write what differs; deleting forgets and leaves the file."""
        for op in ops:
            match op:
                case Op(verb=Verb.DELETE, key=CniConfigKey() as key):
                    self._wanted.pop(key, None)
                    yield op, None
                case Op(value=CniConfig() as wanted):
                    self._wanted[wanted.key] = wanted
                    yield op, _set(wanted)


def _set(wanted: CniConfig) -> DriverError | None:
    path = wanted.key.path
    try:
        before = _read(path)
        document = _fresh(path) if before is None else deepcopy(before)
        _adjust(document, wanted)
        if document != before:
            _write(Path(path), document)
    except DriverError as error:
        return error
    except OSError as error:
        return DriverError(f"write {path}: {(error.strerror or str(error)).lower()}", error.errno or 0)
    return None


def _read(path: str) -> Json | None:
    """Return the file's content, ``None`` where there is no file.

    Errors: DriverError names the file and, for broken JSON, the place.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise DriverError(f"read {path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise DriverError(f"read {path}: {(error.strerror or str(error)).lower()}", error.errno or 0) from error
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise DriverError(f"read {path}: not JSON at {place}: {error.msg.lower()}") from error
    except RecursionError as error:
        raise DriverError(f"read {path}: nested too deeply") from error
    if not isinstance(document, dict):
        raise DriverError(f"read {path}: not a JSON object")
    return document


def _fresh(path: str) -> Json:
    """Return a new configuration, still without what the agent sets."""
    bridge: Json = {"type": "bridge", "isDefaultGateway": True, "hairpinMode": True, "ipam": {"type": "host-local"}}
    head: Json = {"cniVersion": _VERSION, "name": "kuberouterpy"}
    if path.endswith(".conf"):
        return head | bridge
    portmap: Json = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return {**head, "plugins": [bridge, portmap]}


def _adjust(document: Json, wanted: CniConfig) -> None:
    """Set bridge name, ranges and MTU in ``document``, in place.

    Ranges of one family stand in one range set: host-local gives an address from each set, and a pod has one a family.
    """
    bridge, ipam = _parts(document, wanted.key.path)
    bridge["bridge"] = wanted.bridge
    if wanted.mtu:
        bridge["mtu"] = wanted.mtu
    known = {_subnet(entry): entry for entry in _ranges(ipam)}
    if (*known,) == wanted.ranges and _OF_THE_OLD_FORM[0] not in ipam:
        return
    for key in _OF_THE_OLD_FORM:
        ipam.pop(key, None)
    sets = ([cidr for cidr in wanted.ranges if family_of(cidr) is family] for family in FAMILIES)
    ipam["ranges"] = [[known.get(cidr, {"subnet": cidr}) for cidr in cidrs] for cidrs in sets if cidrs]


def _described(document: Json, wanted: CniConfig) -> CniConfig:
    bridge, ipam = _parts(document, wanted.key.path)
    mtu = bridge.get("mtu") if wanted.mtu else 0
    return CniConfig(
        wanted.key,
        bridge=str(bridge.get("bridge", "")),
        ranges=tuple(_subnet(entry) for entry in _ranges(ipam)),
        mtu=mtu if isinstance(mtu, int) else 0,
    )


def _parts(document: Json, path: str) -> tuple[Json, Json]:
    """Return the bridge plugin and its IPAM section, both parts of ``document``."""
    plugins = document.get("plugins", [document])
    for plugin in plugins if isinstance(plugins, list) else ():
        if isinstance(plugin, dict) and plugin.get("type") == "bridge":
            ipam = plugin.setdefault("ipam", {"type": "host-local"})
            if not isinstance(ipam, dict) or ipam.get("type") != "host-local":
                raise DriverError(f"read {path}: the ipam of its bridge plugin is not host-local")
            return plugin, ipam
    raise DriverError(f"read {path}: it has no bridge plugin")


def _ranges(ipam: Json) -> Iterator[Json]:
    """Yield every range, that of the old form first, as host-local reads them."""
    if "subnet" in ipam:
        yield {key: ipam[key] for key in _OF_THE_OLD_FORM if key in ipam}
    sets = ipam.get("ranges", [])
    for one in sets if isinstance(sets, list) else ():
        for entry in one if isinstance(one, list) else ():
            if isinstance(entry, dict):
                yield entry


def _subnet(entry: Json) -> str:
    text = str(entry.get("subnet", ""))
    try:
        return canonical_prefix(text)
    except ValueError:
        return text  # equal to nothing wanted, so it will be replaced


def _write(path: Path, document: Json) -> None:
    """Replace the file whole. The name of the new one ends in .tmp, so that no runtime takes it for a configuration."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with open(number, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
            file.flush()
            os.fchmod(number, _MODE)
            os.fsync(number)
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # or a power cut could bring the old name back
    finally:
        os.close(folder)
