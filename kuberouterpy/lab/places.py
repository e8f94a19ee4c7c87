"""Where a command inside a lab can run: on a node, in a pod, on the router, on the client outside."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from kuberouterpy.errors import ConfigError, LabError
from kuberouterpy.lab.engine import kernel

_NETNS: Final = Path("/run/netns")
VIEWS: Final = Path("/run/lab/views")
"""Links to the mount namespaces of pods that started a process; the kubelet keeps them."""

SHORTCUT: Final = """\
#!/bin/sh
# kuberouterpy, with a short way for `lab exec`: starting Python takes a second under User-Mode Linux, this takes 0.05 s.
if [ "$1 $2" = "lab exec" ] && [ $# -gt 3 ]; then
  place=
  case $3 in
    node/node-[1-9]) place=${3#node/} ;;
    client | client/client) place=client ;;
    router | router/router) place=router ;;
    pod/*/*)
      name=${3#pod/}
      for path in $(ls -t -d "/run/netns/pod-${name%%/*}-${name#*/}-"???????? 2>/dev/null); do
        [ -n "$place" ] || place=${path##*/}
      done
      ;;
  esac
  word=$4
  [ "$word" = -- ] && word=$5
  case $word in */*) [ -x "$word" ] || place="" ;; esac
  case $place in node-*) export KUBEROUTERPY_SOCKET="/run/lab/nodes/$place/agent.sock" ;; esac
  if [ -n "$place" ] && [ -e "/run/netns/$place" ] && command -v "$word" >/dev/null; then
    shift 3
    [ "$1" = -- ] && shift
    if [ -e "/run/lab/views/$place" ]; then
      exec nsenter --net="/run/netns/$place" --mount="/run/lab/views/$place" \\
        sh -c 'cd "$0" 2>/dev/null || cd /; exec "$@"' "$PWD" "$@"
    fi
    exec ip netns exec "$place" "$@"
  fi
fi
exec '%s' "$@"
"""


def enter(target: str) -> None:
    """Put this process where ``target`` says, with the /sys of that place.

    Errors: ConfigError for a target that is no target; LabError when there is none of that name, or no lab.
    """
    if not _NETNS.joinpath("router").exists():
        raise LabError(
            "no lab runs here: this command works inside `kuberouterpy lab shell` and `kuberouterpy lab run`"
        )
    path = netns(target)
    if target.startswith("node/"):
        os.environ["KUBEROUTERPY_SOCKET"] = f"/run/lab/nodes/{Path(path).name}/agent.sock"
    directory = os.getcwd()
    kernel.enter(path)
    view = VIEWS / Path(path).name
    if view.exists():
        kernel.enter(str(view), kernel.CLONE_NEWNS)
        os.chdir(directory if os.path.isdir(directory) else "/")
        return
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
    kernel.mount("sysfs", "/sys", "sysfs")


def install_shortcut(directory: Path, program: str) -> None:
    """Put ``kuberouterpy`` into a folder of the guest, for its PATH; everything but ``lab exec`` goes to ``program``."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "kuberouterpy"
    path.write_text(SHORTCUT % program)
    path.chmod(0o755)


def netns(target: str) -> str:
    """Return the path of the network namespace that a target names."""
    match target.split("/"):
        case ["client" | "router" as name] | ["client" | "router", name]:
            return str(_NETNS / ("router" if target.startswith("router") else name))
        case ["node", name]:
            return _existing(name)
        case ["pod", namespace, name]:
            return _pod(namespace, name)
        case _:
            raise ConfigError(f"lab exec {target}: say node/NAME, pod/NAMESPACE/NAME, router or client")


def _existing(name: str) -> str:
    path = _NETNS / name
    if not re.fullmatch(r"node-\d", name) or not path.exists():
        known = ", ".join(sorted(each for each in os.listdir(_NETNS) if re.fullmatch(r"node-\d", each)))
        raise LabError(f"no node {name!r} in this lab; there are {known}")
    return str(path)


def _pod(namespace: str, name: str) -> str:
    """Return a pod's namespace by the name its kubelet gave it; of two lives of one name, the younger's."""
    pattern = re.compile(re.escape(f"pod-{namespace}-{name}-") + "[0-9a-f]{8}")
    found = [path for path in _NETNS.iterdir() if pattern.fullmatch(path.name)]
    if found:
        return str(max(found, key=lambda path: path.stat().st_mtime_ns))
    from kuberouterpy.lab.control import ask

    node: str = ask("node-of", namespace=namespace, name=name)
    return _existing(node)
