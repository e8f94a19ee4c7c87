"""A real ``kube-apiserver`` with its ``etcd`` in place of the lab's own API server.

``KUBEBUILDER_ASSETS`` names the folder that holds both, as ``setup-envtest`` makes it. etcd keeps everything in the guest's
memory; killing the API server leaves it alone. The flags below exist in every version from 1.28 to 1.35.

What the lab's own API server does and these programs leave to a controller manager is not done: nothing removes the objects of
a deleted owner or namespace. Nor can they be told to misbehave, and ``kubectl logs`` finds no kubelet that would answer it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kuberouterpy.errors import ConfigError, LabError
from kuberouterpy.lab.client import Client
from kuberouterpy.lab.topology import API_PORT, Topology

VARIABLE: Final = "KUBEBUILDER_ASSETS"
PROGRAMS: Final = ("kube-apiserver", "etcd")
DIRECTORY: Final = Path("/run/lab/apiserver")
"""Keys, tokens and the certificate that the API server signs itself."""
ETCD_DATA: Final = Path("/run/lab/etcd")
ETCD_URL: Final = "http://127.0.0.1:2379"
TOKEN: Final = "kuberouterpy-lab"  # noqa: S105 (no secret: nobody outside the guest reaches the server)
LIMITS: Final = "nothing there removes what a deleted owner or namespace held, and it takes no faults"

_ETCD_PEER_URL: Final = "http://127.0.0.1:2380"
_KEY_BITS: Final = "2048"
_NO_ADMISSION: Final = (
    "ServiceAccount",  # no controller makes the default account, so every pod would be refused
    "TaintNodesByCondition",  # no controller takes the taint from nodes that became Ready, so no pod would find one
)


def folder(environment: Mapping[str, str]) -> str:
    """Return the absolute path of the folder with both programs; empty where none was named.

    Errors: ConfigError names the folder, and the program that is missing or cannot be executed.
    """
    named = environment.get(VARIABLE, "")
    if not named:
        return ""
    if not os.path.isdir(named):
        raise ConfigError(f"{VARIABLE}={named}: no such folder; unset it for the lab's own API server")
    for program in PROGRAMS:
        path = os.path.join(named, program)
        if not os.path.isfile(path):
            raise ConfigError(f"{VARIABLE}={named}: no {program} in it; unset it for the lab's own API server")
        if not os.access(path, os.X_OK):
            raise ConfigError(f"{VARIABLE}={named}: {program} is not executable")
    return os.path.abspath(named)


def etcd(assets: str) -> tuple[str, ...]:
    """Return etcd as a program with its arguments: one member, on the loopback, in memory."""
    return (
        f"{assets}/etcd",
        "--name=lab",
        f"--data-dir={ETCD_DATA}",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        f"--listen-peer-urls={_ETCD_PEER_URL}",
        f"--initial-advertise-peer-urls={_ETCD_PEER_URL}",
        f"--initial-cluster=lab={_ETCD_PEER_URL}",
        "--unsafe-no-fsync",
    )


def apiserver(assets: str, topology: Topology, *, directory: Path = DIRECTORY) -> tuple[str, ...]:
    """Return the API server as a program with its arguments.

    It advertises one address: its own reconciler makes the endpoints of the ``kubernetes`` service, and takes only an address
    of the default family.
    """
    everywhere = "::" if any(":" in address.address for address in topology.api) else "0.0.0.0"
    return (
        f"{assets}/kube-apiserver",
        f"--etcd-servers={ETCD_URL}",
        f"--bind-address={everywhere}",
        f"--secure-port={API_PORT}",
        f"--advertise-address={topology.api[0].address}",
        f"--cert-dir={directory}",
        f"--token-auth-file={_tokens(directory)}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={_key(directory)}",
        f"--service-account-key-file={_key(directory)}",
        f"--service-cluster-ip-range={','.join(topology.service_cidrs)}",
        "--service-node-port-range=30000-32767",
        f"--disable-admission-plugins={','.join(_NO_ADMISSION)}",
        "--allow-privileged=true",
    )


def prepare(*, directory: Path = DIRECTORY) -> None:
    """Write what the API server reads at its start: the token of the lab's administrator, and a key to sign accounts with.

    Errors: LabError says what openssl did not do.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _tokens(directory).write_text(f'{TOKEN},kuberouterpy-lab,kuberouterpy-lab,"system:masters"\n')
    _make_key(_key(directory))


def authority(*, directory: Path = DIRECTORY) -> Path:
    """Return the certificate to trust; the API server writes it, with its issuer's behind it, at its first start."""
    return directory / "apiserver.crt"


def client(topology: Topology, *, timeout_s: float = 15.0) -> Client:
    """Return a client of a lab's API server, whichever it is; it may be made before the server has started."""
    if not topology.secure:
        return Client(topology.server, timeout_s=timeout_s)
    return Client(topology.server, token=TOKEN, authority=str(authority()), timeout_s=timeout_s)


def write_kubeconfig(path: Path, topology: Topology, *, directory: Path = DIRECTORY, token: str = TOKEN) -> None:
    """Write a kubeconfig with the certificate in it: pods and nodes see other files. ``token``: else the administrator's."""
    import base64

    from kuberouterpy.lab.api.__main__ import write_kubeconfig as write

    trusted = base64.b64encode(authority(directory=directory).read_bytes()).decode()
    write(path, topology.server, token=token, authority=trusted)


def _tokens(directory: Path) -> Path:
    return directory / "tokens.csv"


def _key(directory: Path) -> Path:
    return directory / "accounts.key"


def _make_key(path: Path) -> None:
    import subprocess

    words = ["openssl", "genrsa", "-out", str(path), _KEY_BITS]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{VARIABLE} needs openssl, to make the key of service accounts (Debian: openssl)") from error
    if done.returncode:
        raise LabError(f"make the key of service accounts: {' '.join(words)}: {' '.join(done.stderr.split())}")
