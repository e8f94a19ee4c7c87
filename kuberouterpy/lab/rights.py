"""The agents' rights in a lab: those of the ServiceAccount in a manifest, instead of the administrator's.

The RBAC objects of the file are applied; every agent's kubeconfig then holds a token of the account. The lab's own API server
takes the account's name as its token, a real one is asked for a token. What the API server refuses stands in its log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from kuberouterpy.errors import LabError
from kuberouterpy.lab import assets, manifest
from kuberouterpy.lab.api.__main__ import write_kubeconfig
from kuberouterpy.lab.api.authorizer import ACCOUNT
from kuberouterpy.lab.client import Client
from kuberouterpy.lab.topology import Topology

KINDS: Final = frozenset({"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"})


def give(path: Path, client: Client, topology: Topology, kubeconfig: Path) -> str:
    """Apply the RBAC objects of a file, write a kubeconfig of its account, return the account's name as a user.

    Errors: LabError where the file cannot be used or names no single ServiceAccount.
    """
    import yaml

    manifest.check(path)
    documents = [one for one in yaml.safe_load_all(path.read_text()) if one and one.get("kind") in KINDS]
    accounts = [one["metadata"] for one in documents if one["kind"] == "ServiceAccount"]
    if len(accounts) != 1:
        raise LabError(f"--rights {path}: holds {len(accounts)} ServiceAccounts; it must hold one, that of the agents")
    chosen = kubeconfig.with_suffix(".rights.yaml")
    chosen.write_text(yaml.safe_dump_all(documents))
    manifest.apply(client, chosen)
    namespace, name = accounts[0].get("namespace", "default"), accounts[0]["name"]
    user = f"{ACCOUNT}{namespace}:{name}"
    if topology.secure:
        assets.write_kubeconfig(kubeconfig, topology, token=_token(client, namespace, name))
    else:
        write_kubeconfig(kubeconfig, topology.server, token=user)
    return user


def _token(client: Client, namespace: str, name: str) -> str:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    answer: dict[str, Any] = client.request("POST", path, body)
    token: str = answer["status"]["token"]
    return token
