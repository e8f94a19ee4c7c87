"""The health-check driver on real sockets; ``ss`` and ``curl`` are the judges."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import pytest

from kuberouterpy.dataplane import HealthCheck, HealthCheckKey, Object, Op, Verb
from kuberouterpy.drivers import health
from kuberouterpy.drivers.health import HealthDriver
from kuberouterpy.errors import DriverError
from tests.contract import suite

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("netns")]

PORTS = (31000, 31001)
SAMPLES = (
    HealthCheck(HealthCheckKey(PORTS[0]), "default", "web", 2),
    HealthCheck(HealthCheckKey(PORTS[1]), "other", "api", 0),
)


class Mood:
    """Whether the proxy is well."""

    well = True


@pytest.fixture
def mood() -> Mood:
    return Mood()


@pytest.fixture
def driver(mood: Mood) -> Iterator[HealthDriver]:
    with closing(HealthDriver(lambda: mood.well)) as made:
        yield made


@pytest.fixture
def subject() -> Iterator[suite.Subject]:
    with ExitStack() as stack:
        living: list[HealthDriver] = []

        def restart(_: Sequence[Object]) -> HealthDriver:
            while living:
                living.pop().close()  # sockets end with their process
            living.append(HealthDriver())
            stack.callback(living[-1].close)
            return living[-1]

        changed = HealthCheck(SAMPLES[0].key, "default", "web", 0)
        yield suite.Subject(restart, SAMPLES, outside, changes={changed.key: changed}, foreign=foreign(stack))


@pytest.mark.parametrize(
    "check",
    [
        suite.a_clean_place_lists_nothing,
        suite.creating_again_succeeds_and_changes_nothing,
        suite.changes_arrive_and_can_be_taken_back,
        suite.update_of_a_missing_object_creates_it,
        suite.deleted_objects_are_gone,
        suite.deleting_what_never_was_succeeds,
        suite.operations_of_one_batch_follow_their_order,
        suite.objects_of_others_are_neither_listed_nor_touched,
    ],
    ids=suite.named,
)
def test_contract(subject: suite.Subject, check: suite.Check) -> None:
    check(subject)


def foreign(stack: ExitStack):  # type: ignore[no-untyped-def]
    return lambda: stack.enter_context(closing(socket.create_server(("127.0.0.1", 30999))))


def outside() -> list[str]:
    listening = subprocess.run(["ss", "-Hltn"], check=True, capture_output=True, text=True).stdout
    lines = [line.split()[3] for line in listening.splitlines()]
    return sorted(
        [*lines, *(f"{port} {curl(f'127.0.0.1:{port}')}" for port in PORTS if any(f":{port}" in one for one in lines))]
    )


def curl(where: str, *words: str) -> str:
    """Return what curl prints, headers included."""
    command = ["curl", "-gsi", "-m", "5", *words, where]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def code(where: str) -> str:
    return curl(where).split()[1]


def apply(driver: HealthDriver, verb: Verb, *objects: HealthCheck) -> None:
    suite.applied(driver, [Op(verb, one.key, None if verb is Verb.DELETE else one) for one in objects])


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_both_families_hear_how_many_endpoints_there_are(driver: HealthDriver, address: str) -> None:
    apply(driver, Verb.CREATE, *SAMPLES)
    head, _, body = curl(f"{address}:31000/any/path?x=1").replace("\r", "").partition("\n\n")
    assert head.splitlines()[0] == "HTTP/1.1 200 OK"
    assert {
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
        "X-Load-Balancing-Endpoint-Weight: 2",
    } <= set(head.splitlines())
    assert json.loads(body) == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    assert code(f"{address}:31001") == "503"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS", "NONSENSE"])
def test_any_method_is_answered(driver: HealthDriver, method: str) -> None:
    apply(driver, Verb.CREATE, *SAMPLES)
    words = ["-I"] if method == "HEAD" else ["-X", method]
    words += ["-d", "x" * 100_000] if method == "POST" else []
    assert curl("127.0.0.1:31000/healthz", *words).splitlines()[0].strip() == "HTTP/1.1 200 OK"


def test_a_proxy_that_is_not_well_answers_503_and_says_so(driver: HealthDriver, mood: Mood) -> None:
    apply(driver, Verb.CREATE, *SAMPLES)
    mood.well = False
    told = curl("127.0.0.1:31000")
    assert told.split()[1] == "503"
    assert json.loads(told.splitlines()[-1])["serviceProxyHealthy"] is False
    mood.well = True
    assert code("127.0.0.1:31000") == "200"


def test_a_port_that_is_taken_is_an_error_and_works_when_it_is_free(driver: HealthDriver) -> None:
    create = Op(Verb.CREATE, SAMPLES[0].key, SAMPLES[0])
    with closing(socket.create_server(("127.0.0.1", PORTS[0]))):
        error = suite.outcomes(driver, [create])[create.key]
        assert isinstance(error, DriverError)
        assert error.errno == errno.EADDRINUSE
        assert str(error) == "create health-check port 31000: address already in use (EADDRINUSE)"
        apply(driver, Verb.CREATE, SAMPLES[1])
    assert driver.list() == {SAMPLES[1].key: SAMPLES[1]}
    apply(driver, Verb.CREATE, SAMPLES[0])
    assert code("127.0.0.1:31000") == "200"


def test_all_ports_share_one_thread_which_starts_with_the_first(driver: HealthDriver) -> None:
    before = threading.active_count()
    apply(driver, Verb.DELETE, *SAMPLES)
    assert threading.active_count() == before
    many = [HealthCheck(HealthCheckKey(port), "default", f"s{port}", 1) for port in range(30000, 30300)]
    apply(driver, Verb.CREATE, *many)
    assert threading.active_count() == before + 1
    assert {code(f"127.0.0.1:{port}") for port in (30000, 30150, 30299)} == {"200"}
    driver.close()
    assert threading.active_count() == before


def test_a_client_that_does_not_ask_holds_nobody_up_and_is_dropped(
    driver: HealthDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_PATIENCE_S", 0.2)
    apply(driver, Verb.CREATE, *SAMPLES)
    with socket.create_connection(("127.0.0.1", PORTS[0])) as silent:
        silent.send(b"GET / HT")
        assert code("127.0.0.1:31000") == "200"
        silent.settimeout(5)
        assert silent.recv(100) == b""


def test_a_head_without_end_is_cut(driver: HealthDriver) -> None:
    apply(driver, Verb.CREATE, *SAMPLES)
    with (
        socket.create_connection(("127.0.0.1", PORTS[0]), timeout=5) as endless,
        pytest.raises((ConnectionResetError, BrokenPipeError)),
    ):
        endless.sendall(b"a" * 64_000_000)


def test_more_clients_than_there_is_room_for_are_turned_away(
    driver: HealthDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_CLIENTS", 3)
    apply(driver, Verb.CREATE, *SAMPLES)
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", PORTS[0]), timeout=5)) for _ in range(4)]
        assert sockets[3].recv(1) == b""
        sockets[0].send(b"GET / HTTP/1.0\r\n\r\n")
        assert sockets[0].recv(100).startswith(b"HTTP/1.1 200")
