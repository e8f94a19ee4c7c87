"""What a kubelet reports, from the states of the containers."""

from __future__ import annotations

from typing import Any

import pytest

from kuberouterpy.lab.kubelet.status import Seen, State, phase, restarts_again, status

Object = dict[str, Any]
NOW = "2026-01-01T00:00:09Z"


def pod(*, init: tuple[Object, ...] = (), containers: int = 1, **spec: Any) -> Object:
    mains = [{"name": f"c{number}", "image": "x"} for number in range(containers)]
    return {"metadata": {}, "spec": {"containers": mains, "initContainers": list(init), **spec}, "status": {}}


def running(*, ready: bool = True) -> State:
    return State(running=True, started_at="t", passed_startup=True, passed_readiness=ready)


def ended(code: int) -> State:
    return State(exit_code=code, finished_at="t", reason="")


def seen(*states: State, over: bool = False, initialized: bool = True, **named: State) -> Seen:
    all_states = {**{f"c{number}": state for number, state in enumerate(states)}, **named}
    return Seen(
        all_states, over=over, initialized=initialized, pod_ips=("10.0.0.2", "fd00::2"), host_ips=("192.0.2.1",)
    )


def condition(made: Object, kind: str) -> tuple[str, str | None]:
    (one,) = (one for one in made["conditions"] if one["type"] == kind)
    return one["status"], one.get("reason")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (seen(State(), initialized=False), "Pending"),
        (seen(State()), "Pending"),
        (seen(running()), "Running"),
        (seen(State(exit_code=1, reason="CrashLoopBackOff")), "Running"),
        (seen(ended(0), over=True), "Succeeded"),
        (seen(ended(1), over=True), "Failed"),
        (seen(State(), over=True), "Failed"),
    ],
)
def test_the_phase_follows_the_containers(what: Seen, expected: str) -> None:
    assert phase(pod(), what) == expected


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_the_restart_policy_decides(policy: str, code: int, expected: bool) -> None:
    assert restarts_again(pod(restartPolicy=policy), {"name": "c0"}, code) is expected


def test_init_containers_run_again_until_they_end_well_and_sidecars_always() -> None:
    one = pod(restartPolicy="Always")
    assert not restarts_again(one, {"name": "i"}, 0, init=True)
    assert restarts_again(one, {"name": "i"}, 1, init=True)
    assert not restarts_again(pod(restartPolicy="Never"), {"name": "i"}, 1, init=True)
    assert restarts_again(pod(restartPolicy="Never"), {"name": "i", "restartPolicy": "Always"}, 0, init=True)


def test_a_pod_is_ready_when_every_container_is() -> None:
    made = status(pod(containers=2), seen(running(), running(ready=False)), NOW)
    assert condition(made, "Ready") == ("False", "ContainersNotReady")
    assert [one["ready"] for one in made["containerStatuses"]] == [True, False]
    made = status(pod(containers=2), seen(running(), running()), NOW)
    assert [condition(made, kind) for kind in ("ContainersReady", "Ready")] == [("True", None)] * 2


def test_a_sidecar_that_is_not_ready_holds_the_pod_back() -> None:
    one = pod(init=({"name": "side", "restartPolicy": "Always"},))
    made = status(one, seen(running(), side=running(ready=False)), NOW)
    assert condition(made, "Ready") == ("False", "ContainersNotReady")


def test_readiness_gates_are_others_to_open_and_their_conditions_stay() -> None:
    one = pod(readinessGates=[{"conditionType": "blue"}])
    made = status(one, seen(running()), NOW)
    assert condition(made, "Ready") == ("False", "ReadinessGatesNotReady")
    assert condition(made, "ContainersReady") == ("True", None)
    one["status"]["conditions"] = [{"type": "blue", "status": "True"}]
    made = status(one, seen(running()), NOW)
    assert condition(made, "Ready") == ("True", None)
    assert condition(made, "blue") == ("True", None)


def test_the_transition_time_moves_only_when_the_condition_turns() -> None:
    one = pod()
    one["status"]["conditions"] = [
        {"type": "Ready", "status": "True", "lastTransitionTime": "before"},
        {"type": "ContainersReady", "status": "False", "lastTransitionTime": "before"},
    ]
    made = status(one, seen(running()), NOW)
    times = {found["type"]: found["lastTransitionTime"] for found in made["conditions"]}
    assert (times["Ready"], times["ContainersReady"]) == ("before", NOW)


def test_addresses_of_both_families_are_reported_in_order() -> None:
    made = status(pod(), seen(running()), NOW)
    assert (made["podIP"], made["podIPs"]) == ("10.0.0.2", [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}])
    assert (made["hostIP"], made["hostIPs"]) == ("192.0.2.1", [{"ip": "192.0.2.1"}])


def test_a_container_that_waits_for_its_restart_says_why_and_how_it_ended() -> None:
    state = State(exit_code=3, reason="CrashLoopBackOff", restarts=2, previous={"exitCode": 3})
    (made,) = status(pod(), seen(state), NOW)["containerStatuses"]
    assert made["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
    assert (made["lastState"], made["restartCount"]) == ({"terminated": {"exitCode": 3}}, 2)


def test_a_pod_that_is_over_is_not_ready() -> None:
    made = status(pod(), seen(ended(0), over=True), NOW)
    assert condition(made, "Ready") == ("False", "PodCompleted")
