"""A real API server in the lab: which folder is taken, its flags, and TLS and token with the real etcd and a strict stand-in.

The stand-in, ``stubs/kube-apiserver``, refuses any flag it does not know and anybody without the token.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kuberouterpy.errors import ConfigError, LabError
from kuberouterpy.lab import assets, control
from kuberouterpy.lab.client import NODES, SERVICES, ApiError, Client
from kuberouterpy.lab.cluster import Cluster
from kuberouterpy.lab.options import LabOptions
from kuberouterpy.lab.topology import plan

STUB = Path(__file__).parent / "stubs/kube-apiserver"
PATIENCE_S = 30.0


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A folder with both programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in assets.PROGRAMS:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def flags(words: tuple[str, ...]) -> dict[str, str]:
    """Return what every flag is set to."""
    pairs = [word.removeprefix("--").partition("=") for word in words[1:]]
    return {name: value for name, _, value in pairs}


def test_without_the_variable_the_lab_has_its_own_server() -> None:
    assert [assets.folder({}), assets.folder({assets.VARIABLE: ""})] == ["", ""]


def test_a_folder_with_both_programs_is_taken_by_its_absolute_path(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(both.parent)
    assert assets.folder({assets.VARIABLE: "bin"}) == str(both)


@pytest.mark.parametrize("program", assets.PROGRAMS)
def test_the_program_that_lacks_is_named(both: Path, program: str) -> None:
    (both / program).unlink()
    with pytest.raises(ConfigError, match=f"KUBEBUILDER_ASSETS={both}: no {program} in it"):
        assets.folder({assets.VARIABLE: str(both)})


@pytest.mark.parametrize("program", assets.PROGRAMS)
def test_the_program_that_cannot_be_executed_is_named(both: Path, program: str) -> None:
    (both / program).chmod(0o644)
    with pytest.raises(ConfigError, match=f"{program} is not executable"):
        assets.folder({assets.VARIABLE: str(both)})


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/none: no such folder"):
        assets.folder({assets.VARIABLE: f"{tmp_path}/none"})


@pytest.mark.parametrize(
    ("families", "bind", "advertised", "ranges"),
    [
        ("ipv4", "0.0.0.0", "172.30.0.10", "10.96.0.0/16"),
        ("ipv6", "::", "fd30::10", "fd00:10:96::/112"),
        ("dual", "::", "172.30.0.10", "10.96.0.0/16,fd00:10:96::/112"),
    ],
)
def test_the_server_is_where_the_topology_has_it(families: str, bind: str, advertised: str, ranges: str) -> None:
    topology = plan(1, families, secure=True)
    found = flags(assets.apiserver("/a", topology))
    assert (found["bind-address"], found["secure-port"]) == (bind, "6443")
    assert (found["advertise-address"], found["service-cluster-ip-range"]) == (advertised, ranges)
    assert topology.server == f"https://{'[fd30::10]' if families == 'ipv6' else advertised}:6443"


def test_the_whole_command_lines() -> None:
    """What a real one is started with; the stand-in cannot know whether it would take them."""
    assert assets.apiserver("/a", plan(1, "dual", secure=True)) == (
        "/a/kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=::",
        "--secure-port=6443",
        "--advertise-address=172.30.0.10",
        "--cert-dir=/run/lab/apiserver",
        "--token-auth-file=/run/lab/apiserver/tokens.csv",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-account-signing-key-file=/run/lab/apiserver/accounts.key",
        "--service-account-key-file=/run/lab/apiserver/accounts.key",
        "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
        "--service-node-port-range=30000-32767",
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
        "--allow-privileged=true",
    )
    assert assets.etcd("/a") == (
        "/a/etcd",
        "--name=lab",
        "--data-dir=/run/lab/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=lab=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
    )


def test_what_the_server_reads_is_written_and_the_key_is_kept_to_its_owner(tmp_path: Path) -> None:
    assets.prepare(directory=tmp_path / "made")
    assert (tmp_path / "made/tokens.csv").read_text() == (
        f'{assets.TOKEN},kuberouterpy-lab,kuberouterpy-lab,"system:masters"\n'
    )
    assert "PRIVATE KEY" in (tmp_path / "made/accounts.key").read_text()
    assert (tmp_path / "made/accounts.key").stat().st_mode & 0o077 == 0


def test_openssl_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="KUBEBUILDER_ASSETS needs openssl"):
        assets.prepare(directory=tmp_path / "made")


def test_the_kubeconfig_holds_certificate_and_token(tmp_path: Path) -> None:
    assets.authority(directory=tmp_path).write_text("certificate\n")
    assets.write_kubeconfig(tmp_path / "kubeconfig", plan(1, secure=True), directory=tmp_path)
    found = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    cluster = found["clusters"][0]["cluster"]
    assert cluster["server"] == "https://172.30.0.10:6443"
    assert base64.b64decode(cluster["certificate-authority-data"]) == b"certificate\n"
    assert found["users"][0]["user"] == {"token": assets.TOKEN}


def test_faults_are_refused_in_words_where_a_real_server_runs() -> None:
    unused: Any = None
    cluster = Cluster(LabOptions(assets="/a"), unused, note=print)
    with pytest.raises(LabError, match=r"only the lab's own API server can misbehave; this lab runs .* of /a"):
        control._operations(cluster)["fault"](faults=[{"kind": "drop"}])


class Server:
    """The real etcd and the stand-in on ports of their own, with the lab's own flags but for those ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = {assets.ETCD_URL: free(), assets._ETCD_PEER_URL: free()}
        self.port = free()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: list[Client] = []
        assets.prepare(directory=folder)

    def client(self, *, token: str = assets.TOKEN, authority: Path | None = None, url: str = "") -> Client:
        """Return a client; its connections are closed when the server is."""
        trusted = str(authority or assets.authority(directory=self.folder))
        client = Client(url or f"https://127.0.0.1:{self.port}", token=token, authority=trusted, timeout_s=5)
        self._clients.append(client)
        return client

    def start_etcd(self) -> None:
        data = self.folder / "etcd"
        words = [self._moved(word).replace(str(assets.ETCD_DATA), str(data)) for word in assets.etcd("")]
        self._start("etcd", [shutil.which("etcd") or "", *words[1:]])
        until_answers(self.client(url=f"http://127.0.0.1:{self._ports[assets.ETCD_URL]}"), "/health")

    def start(self, *more: str) -> None:
        words = [self._moved(word) for word in assets.apiserver("", plan(1), directory=self.folder)[1:]]
        self._start("api", [sys.executable, str(STUB), *words, *more])

    def kill(self) -> None:
        self._processes["api"].send_signal(signal.SIGKILL)
        self._processes["api"].wait()

    def wait(self) -> tuple[int, str]:
        """Return how the stand-in ended, and what it said."""
        return self._processes["api"].wait(PATIENCE_S), (self.folder / "api.log").read_text()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _moved(self, word: str) -> str:
        for url, port in self._ports.items():
            word = word.replace(url, f"http://127.0.0.1:{port}")
        word = word.replace("--bind-address=::", "--bind-address=127.0.0.1")
        return word.replace("--secure-port=6443", f"--secure-port={self.port}")

    def _start(self, name: str, words: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(words, stdout=log, stderr=log)


def free() -> int:
    """Return a port nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def certify(path: Path) -> None:
    """Write a certificate of somebody else."""
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", os.devnull, "-out", str(path)]
    subprocess.run([*words, "-subj", "/CN=other"], check=True, capture_output=True)


def until_answers(client: Client, path: str) -> None:
    """Wait until a server answers at all."""
    deadline = time.monotonic() + PATIENCE_S
    while not answers(client, path) and time.monotonic() < deadline:
        time.sleep(0.05)


def answers(client: Client, path: str) -> bool:
    """Return whether there was an answer, be it no JSON."""
    try:
        client.request("GET", path)
    except ApiError as error:
        return bool(error.status) or error.reason == "Garbled"
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs."""
    missing = [name for name in ("etcd", "openssl") if not shutil.which(name)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} (Debian: etcd-server, openssl)")
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start_etcd()
        server.start()
        until_answers(server.client(), "/readyz")
        yield server
    finally:
        server.close()


def test_the_flags_are_taken_and_the_token_opens(server: Server) -> None:
    item = server.client().get(SERVICES, "default", "kubernetes")
    assert item["spec"]["clusterIP"] == "10.96.0.1"


@pytest.mark.parametrize("token", ["", "wrong"])
def test_without_the_token_nothing_is_told(server: Server, token: str) -> None:
    with pytest.raises(ApiError) as refused:
        server.client(token=token).list(NODES)
    assert refused.value.status == 401


def test_a_certificate_that_is_not_trusted_or_not_there_yet_is_no_answer(server: Server, tmp_path: Path) -> None:
    """A client made before the server's first start must not fail for good: the next request looks again."""
    path = tmp_path / "late.crt"
    late = server.client(authority=path)
    found = []
    for text in (None, "", "-----BEGIN CERTIFICATE-----"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(ApiError) as refused:
            late.list(NODES)
        found.append(refused.value.status)
    other = tmp_path / "other.crt"
    certify(other)
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        server.client(authority=other).list(NODES)
    path.write_bytes(assets.authority(directory=server.folder).read_bytes())
    late.list(NODES)
    assert found == [0, 0, 0]


def test_a_watch_hears_of_changes_and_ends_when_another_thread_closes_it(server: Server) -> None:
    client = server.client()
    _, version = client.list(NODES)
    watch = client.watch(NODES, version)
    client.create(NODES, {"metadata": {"name": "watched"}})
    events = iter(watch)
    kind, item = next(events)
    assert (kind, item["metadata"]["name"]) == ("ADDED", "watched")
    ended = threading.Event()

    def rest() -> None:
        try:
            for _ in events:
                pass
        except ApiError:
            pass
        ended.set()

    thread = threading.Thread(target=rest)
    thread.start()
    watch.close()
    assert ended.wait(PATIENCE_S)
    thread.join()


def test_a_killed_server_comes_back_with_what_etcd_kept_and_the_certificate_that_is_trusted(server: Server) -> None:
    client = server.client()
    client.create(NODES, {"metadata": {"name": "kept"}})
    server.kill()
    with pytest.raises(ApiError, match=r"refused|reset|EOF|closed"):
        client.get(NODES, "", "kept")
    server.start()
    until_answers(client, "/readyz")
    assert client.get(NODES, "", "kept")["metadata"]["name"] == "kept"


def test_the_stand_in_refuses_what_it_does_not_know(server: Server) -> None:
    """Otherwise the tests above would say nothing about the flags."""
    server.kill()
    server.start("--made-up=1")
    code, said = server.wait()
    server.start()
    until_answers(server.client(), "/readyz")
    assert code != 0
    assert "unrecognized arguments: --made-up=1" in said
