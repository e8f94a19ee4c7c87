"""Print the arguments that the manifest of all features gives its agent, without those that name places in the pod."""

from __future__ import annotations

from pathlib import Path

import yaml

PLACES = ("--sysctl-root=", "--gobgp-socket=")

documents = yaml.safe_load_all(Path("manifests/all.yaml").read_text())
pods = [one["spec"]["template"]["spec"] for one in documents if one["kind"] == "DaemonSet"]
words = [word for pod in pods for one in pod["containers"] if one["name"] == "agent" for word in one["args"]]
print(*(word for word in words if not word.startswith(PLACES)))
