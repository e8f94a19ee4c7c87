"""The server as a client without manners sees it: the wire, and nothing between."""

from __future__ import annotations

import contextlib
import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Client, Start

CM = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"


def cm(name: str, **meta: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **meta}, "data": {}}


def pod(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **more}, "spec": {"containers": [{"name": "c", "image": "x"}]}}


def names(answer: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in answer["items"]]


def test_a_cluster_begins_with_its_namespaces_and_the_kubernetes_service(start: Start) -> None:
    api = start(advertise=(("192.0.2.1", 0), ("2001:db8::1", 6443)))
    namespaces = api.ask("GET", "/api/v1/namespaces")
    assert names(namespaces) == ["default", "kube-node-lease", "kube-public", "kube-system"]
    assert namespaces["items"][0]["metadata"]["labels"] == {"kubernetes.io/metadata.name": "default"}
    assert api.ask("GET", f"{SERVICES}/kubernetes")["spec"]["clusterIP"] == "10.96.0.1"
    slices = api.ask(
        "GET", "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=kubernetes.io/service-name=kubernetes"
    )
    assert {one["addressType"]: one["ports"][0]["port"] for one in slices["items"]} == {"IPv4": api.port, "IPv6": 6443}


def test_an_object_lives_from_create_to_delete(api: Client) -> None:
    made = api.ask("POST", CM, cm("a"))
    assert (api.code, made["apiVersion"], made["kind"]) == (201, "v1", "ConfigMap")
    assert made["metadata"]["namespace"] == "default"
    assert made["metadata"]["uid"]
    again = api.ask("POST", CM, cm("a"))
    assert (api.code, again["reason"]) == (409, "AlreadyExists")
    changed = api.ask("PUT", f"{CM}/a", {**made, "data": {"k": "v"}})
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    stale = api.ask("PUT", f"{CM}/a", {**made, "data": {"k": "w"}})
    assert (api.code, stale["reason"]) == (409, "Conflict")
    gone = api.ask("DELETE", f"{CM}/a")
    assert (api.code, gone["status"]) == (200, "Success")
    missing = api.ask("GET", f"{CM}/a")
    assert (api.code, missing["message"]) == (404, 'configmaps "a" not found')


def test_a_put_that_changes_nothing_makes_no_version(api: Client) -> None:
    made = api.ask("POST", CM, cm("a"))
    assert api.ask("PUT", f"{CM}/a", made)["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_names_are_made_from_generate_name(api: Client) -> None:
    made = [api.ask("POST", CM, {"metadata": {"generateName": "x-"}})["metadata"]["name"] for _ in range(3)]
    assert len(set(made)) == 3
    assert all(name.startswith("x-") and len(name) == 7 for name in made)


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "reason"),
    [
        ("POST", "/api/v1/namespaces/nope/configmaps", cm("a"), 404, "NotFound"),
        ("POST", CM, {"metadata": {}}, 422, "Invalid"),
        ("POST", CM, {"kind": "Pod", "metadata": {"name": "a"}}, 400, "BadRequest"),
        ("POST", CM, cm("a", namespace="other"), 400, "BadRequest"),
        ("POST", CM, cm("a", resourceVersion="5"), 400, "BadRequest"),
        ("POST", CM, [1], 400, "BadRequest"),
        ("POST", CM, b"{", 400, "BadRequest"),
        ("PUT", f"{CM}/a", cm("a"), 404, "NotFound"),
        ("GET", "/api/v1/funnies", None, 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/nodes", None, 404, "NotFound"),
        ("GET", f"{CM}?limit=x", None, 400, "BadRequest"),
        ("GET", f"{CM}?continue=x", None, 400, "BadRequest"),
        ("GET", f"{CM}?resourceVersion=x", None, 400, "BadRequest"),
        ("GET", f"{CM}?resourceVersion=99999", None, 504, "Timeout"),
        ("GET", f"{CM}?labelSelector=a+b", None, 400, "BadRequest"),
        ("GET", f"{PODS}?fieldSelector=spec.nope=1", None, 400, "BadRequest"),
        ("DELETE", "/api/v1/namespaces/kube-system", None, 403, "Forbidden"),
        ("POST", f"{PODS}/a/exec?command=ls", None, 501, "NotImplemented"),
        ("POST", SERVICES, {"metadata": {"name": "x"}, "spec": {}}, 422, "Invalid"),
        ("POST", SERVICES, {"metadata": {"name": "x"}, "spec": {"ports": "x"}}, 400, "BadRequest"),
    ],
)
def test_refusals_are_status_objects(api: Client, method: str, path: str, body: Any, code: int, reason: str) -> None:
    status = api.ask(method, path, body)
    assert (api.code, status["code"], status["reason"], status["kind"]) == (code, code, reason, "Status")


def test_unknown_fields_are_dropped_with_a_warning_or_refused(api: Client) -> None:
    body = {"metadata": {"name": "a"}, "dtaa": {}}
    assert "dtaa" not in api.ask("POST", f"{CM}?fieldValidation=Warn&dryRun=All", body)
    assert api.headers["warning"] == '299 - "unknown field \\"dtaa\\""'
    api.ask("POST", f"{CM}?fieldValidation=Strict", body)
    assert api.code == 400


def test_absurd_objects_pass_only_when_validation_is_bypassed(api: Client) -> None:
    absurd = {"metadata": {"name": "x"}, "spec": {"ports": [{"port": "eighty"}], "clusterIP": 7, "externalIPs": None}}
    api.ask("POST", SERVICES, absurd)
    assert api.code == 400
    stored = api.ask("POST", SERVICES, absurd, X_Lab_No_Validation="1")
    assert api.code == 201
    assert stored["spec"]["ports"][0]["port"] == "eighty"
    assert stored["spec"]["externalIPs"] is None
    assert api.ask("GET", SERVICES, Accept="application/json;as=Table;g=meta.k8s.io;v=v1")["rows"]
    api.ask("DELETE", f"{SERVICES}/x")
    assert api.code == 200
    api.ask("POST", "/lab/validation", {"enabled": False})
    api.ask("POST", SERVICES, absurd)
    assert api.code == 201


def test_pages_show_one_moment_of_time(api: Client) -> None:
    for name in "abcde":
        api.ask("POST", CM, cm(name))
    first = api.ask("GET", f"{CM}?limit=2")
    api.ask("DELETE", f"{CM}/c")
    api.ask("POST", CM, cm("bb"))
    second = api.ask("GET", f"{CM}?limit=2&continue={first['metadata']['continue']}")
    third = api.ask("GET", f"{CM}?limit=2&continue={second['metadata']['continue']}")
    assert [*names(first), *names(second), *names(third)] == list("abcde")
    assert first["metadata"]["remainingItemCount"] == 3
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in third["metadata"]


def test_a_page_token_expires_with_compaction_and_says_how_to_go_on(api: Client) -> None:
    for name in "abc":
        api.ask("POST", CM, cm(name))
    first = api.ask("GET", f"{CM}?limit=1")
    api.ask("POST", CM, cm("d"))
    api.ask("POST", "/lab/compact")
    gone = api.ask("GET", f"{CM}?limit=1&continue={first['metadata']['continue']}")
    assert (api.code, gone["reason"]) == (410, "Expired")
    rest = api.ask("GET", f"{CM}?continue={gone['metadata']['continue']}")
    assert names(rest) == ["b", "c", "d"]


def test_lists_are_selected_by_labels_and_fields(api: Client) -> None:
    api.ask("POST", PODS, pod("a", labels={"app": "x"}))
    api.ask("POST", PODS, pod("b", labels={"app": "y"}))
    api.ask("POST", f"{PODS}/b/binding", {"target": {"kind": "Node", "name": "n1"}})
    assert names(api.ask("GET", f"{PODS}?labelSelector=app%20in%20(x)")) == ["a"]
    assert names(api.ask("GET", "/api/v1/pods?fieldSelector=spec.nodeName=n1")) == ["b"]
    assert names(api.ask("GET", f"{PODS}?fieldSelector=status.phase!=Pending")) == []


def test_a_watch_begins_with_what_is_there_or_after_a_version(api: Client) -> None:
    made = api.ask("POST", CM, cm("a"))
    version = made["metadata"]["resourceVersion"]
    whole, later = api.watch(f"{CM}?watch=1"), api.watch(f"{CM}?watch=1&resourceVersion={version}")
    api.ask("POST", CM, cm("b"))
    api.ask("DELETE", f"{CM}/a")
    assert whole.names(3) == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]
    assert later.names(2) == [("ADDED", "b"), ("DELETED", "a")]


def test_an_object_that_leaves_the_selection_is_deleted_for_that_watch(api: Client) -> None:
    api.ask("POST", CM, cm("a", labels={"x": "1"}))
    watch = api.watch(f"{CM}?watch=1&labelSelector=x=1")
    merge = "application/merge-patch+json"
    api.ask("PATCH", f"{CM}/a", {"data": {"k": "v"}}, content=merge)
    api.ask("PATCH", f"{CM}/a", {"metadata": {"labels": {"x": "2"}}}, content=merge)
    api.ask("PATCH", f"{CM}/a", {"data": {"k": "w"}}, content=merge)
    api.ask("PATCH", f"{CM}/a", {"metadata": {"labels": {"x": "1"}}}, content=merge)
    assert [kind for kind, _ in watch.names(4)] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]


def test_a_watch_of_compacted_history_is_told_410(api: Client) -> None:
    version = api.ask("POST", CM, cm("a"))["metadata"]["resourceVersion"]
    api.ask("POST", CM, cm("b"))
    api.ask("POST", "/lab/compact")
    kind, status = api.watch(f"{CM}?watch=1&resourceVersion={version}").next()
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
    running = api.watch(f"{CM}?watch=1&resourceVersion={api.server.core.storage.version}")
    api.ask("POST", CM, cm("c"))
    assert running.names(1) == [("ADDED", "c")]


def test_watch_list_ends_its_initial_events_with_a_bookmark(api: Client) -> None:
    api.ask("POST", CM, cm("a"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    watch = api.watch(f"{CM}?{query}")
    assert watch.names(1) == [("ADDED", "a")]
    kind, mark = watch.next()
    assert kind == "BOOKMARK"
    assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert mark["metadata"]["resourceVersion"] == str(api.server.core.storage.version)
    api.ask("GET", f"{CM}?watch=1&sendInitialEvents=true")
    assert api.code == 422


def test_a_watch_that_times_out_ends_with_a_bookmark_and_keeps_the_connection(api: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=5)
    connection.request("GET", "/api/v1/nodes?watch=1&resourceVersion=1&allowWatchBookmarks=true&timeoutSeconds=1")
    events = [json.loads(line) for line in connection.getresponse().read().splitlines()]
    assert [event["type"] for event in events] == ["BOOKMARK"]
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b"ok"
    connection.close()


def test_pods_with_a_node_stay_for_their_grace(api: Client) -> None:
    api.ask("POST", PODS, pod("free"))
    api.ask("DELETE", f"{PODS}/free")
    api.ask("GET", f"{PODS}/free")
    assert api.code == 404
    api.ask("POST", PODS, pod("bound"))
    api.ask("POST", f"{PODS}/bound/binding", {"target": {"name": "n1"}})
    going = api.ask("DELETE", f"{PODS}/bound")["metadata"]
    assert going["deletionGracePeriodSeconds"] == 30
    assert going["deletionTimestamp"]
    sooner = api.ask("DELETE", f"{PODS}/bound?gracePeriodSeconds=5")["metadata"]
    assert sooner["deletionGracePeriodSeconds"] == 5
    api.ask("DELETE", f"{PODS}/bound", {"gracePeriodSeconds": 0})
    api.ask("GET", f"{PODS}/bound")
    assert api.code == 404


def test_delete_preconditions_hold(api: Client) -> None:
    api.ask("POST", CM, cm("a"))
    api.ask("DELETE", f"{CM}/a", {"preconditions": {"uid": "other"}})
    assert api.code == 409


def test_finalizers_hold_an_object_until_they_are_gone(api: Client) -> None:
    api.ask("POST", CM, cm("a", finalizers=["example.com/x"]))
    watch = api.watch(f"{CM}?watch=1")
    api.ask("DELETE", f"{CM}/a")
    assert api.ask("GET", f"{CM}/a")["metadata"]["deletionTimestamp"]
    api.ask("PATCH", f"{CM}/a", {"metadata": {"finalizers": []}}, content="application/merge-patch+json")
    assert [kind for kind, _ in watch.names(3)] == ["ADDED", "MODIFIED", "DELETED"]


def test_dependents_go_after_their_owner(api: Client) -> None:
    owner = api.ask("POST", CM, cm("owner"))["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner}
    api.ask("POST", CM, cm("child", ownerReferences=[reference]))
    watch = api.watch(f"{CM}?watch=1&fieldSelector=metadata.name=child")
    api.ask("DELETE", f"{CM}/owner")
    assert watch.names(2) == [("ADDED", "child"), ("DELETED", "child")]


def test_orphaned_dependents_stay_without_their_reference(api: Client) -> None:
    owner = api.ask("POST", CM, cm("owner"))["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner}
    api.ask("POST", CM, cm("child", ownerReferences=[reference]))
    watch = api.watch(f"{CM}?watch=1&fieldSelector=metadata.name=owner")
    api.ask("DELETE", f"{CM}/owner", {"propagationPolicy": "Orphan"})
    assert [kind for kind, _ in watch.names(3)] == ["ADDED", "MODIFIED", "DELETED"]
    assert not api.ask("GET", f"{CM}/child")["metadata"].get("ownerReferences")


def test_an_owner_deleted_in_the_foreground_waits_for_its_dependents(api: Client) -> None:
    owner = api.ask("POST", CM, cm("owner"))["metadata"]["uid"]
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner, "blockOwnerDeletion": True}
    api.ask("POST", CM, cm("child", ownerReferences=[reference]))
    watch = api.watch(f"{CM}?watch=1")
    watch.names(2)
    api.ask("DELETE", f"{CM}/owner", {"propagationPolicy": "Foreground"})
    events = watch.names(1)
    while events[-1] != ("DELETED", "owner"):
        events += watch.names(1)
    assert ("DELETED", "child") in events


def test_a_namespace_takes_its_content_with_it(api: Client) -> None:
    api.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
    api.ask("POST", "/api/v1/namespaces/t/configmaps", cm("a"))
    api.ask("POST", "/api/v1/namespaces/t/services", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}})
    held = {"metadata": {"name": "held", "finalizers": ["example.com/x"]}}
    api.ask("POST", "/api/v1/namespaces/t/configmaps", held)
    namespaces = api.watch("/api/v1/namespaces?watch=1&fieldSelector=metadata.name=t")
    going = api.ask("DELETE", "/api/v1/namespaces/t")
    assert going["status"]["phase"] == "Terminating"
    refused = api.ask("POST", "/api/v1/namespaces/t/configmaps", cm("b"))
    assert (api.code, refused["reason"]) == (403, "Forbidden")
    assert namespaces.names(2) == [("ADDED", "t"), ("MODIFIED", "t")]
    patch = {"metadata": {"finalizers": None}}
    api.ask("PATCH", "/api/v1/namespaces/t/configmaps/held", patch, content="application/merge-patch+json")
    while namespaces.next()[0] != "DELETED":
        pass
    assert api.ask("GET", "/api/v1/namespaces/t/services")["items"] == []


def test_status_and_spec_are_written_apart(api: Client) -> None:
    made = api.ask("POST", PODS, pod("a"))
    made["status"] = {"phase": "Running"}
    assert api.ask("PUT", f"{PODS}/a", made)["status"]["phase"] == "Pending"
    made["spec"]["restartPolicy"] = "Never"
    written = api.ask("PUT", f"{PODS}/a/status", {**made, "metadata": {"name": "a"}})
    assert (written["status"]["phase"], written["spec"]["restartPolicy"]) == ("Running", "Always")
    assert written["metadata"]["generation"] == 1


def test_generation_counts_changes_of_the_wish(api: Client) -> None:
    path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"
    made = api.ask("POST", path, {"metadata": {"name": "a"}, "spec": {"podSelector": {}}})
    made["metadata"]["labels"] = {"x": "y"}
    made = api.ask("PUT", f"{path}/a", made)
    assert made["metadata"]["generation"] == 1
    made["spec"]["egress"] = [{}]
    assert api.ask("PUT", f"{path}/a", made)["metadata"]["generation"] == 2


def test_the_collection_is_deleted_by_selector(api: Client) -> None:
    for name, value in (("a", "1"), ("b", "2"), ("c", "1")):
        api.ask("POST", CM, cm(name, labels={"x": value}))
    api.ask("DELETE", f"{CM}?labelSelector=x=1")
    assert names(api.ask("GET", CM)) == ["b"]


def test_a_dry_run_stores_nothing(api: Client) -> None:
    api.ask("POST", f"{CM}?dryRun=All", cm("a"))
    assert api.code == 201
    api.ask("GET", f"{CM}/a")
    assert api.code == 404


def test_an_event_of_one_group_is_read_in_the_other(api: Client) -> None:
    body = {
        "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "note": "hello", "reason": "R",
        "regarding": {"kind": "Pod", "name": "p"}, "reportingController": "agent", "type": "Normal",
    }  # fmt: skip
    api.ask("POST", "/apis/events.k8s.io/v1/namespaces/default/events", body)
    core = api.ask("GET", "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=p")["items"][0]
    assert (core["message"], core["reportingComponent"], core["apiVersion"]) == ("hello", "agent", "v1")
    assert api.ask("GET", "/apis/events.k8s.io/v1/events")["items"][0]["note"] == "hello"


CRD = {
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["size"],
                                "properties": {
                                    "size": {"type": "integer", "minimum": 1},
                                    "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


def test_a_stored_crd_makes_its_resource_servable(api: Client) -> None:
    path = "/apis/example.com/v1/namespaces/default/widgets"
    api.ask("GET", path)
    assert api.code == 404
    api.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", CRD)
    assert api.code == 201
    made = api.ask("POST", path, {"metadata": {"name": "w"}, "spec": {"size": 3, "junk": 1}})
    assert made["spec"] == {"size": 3, "color": "red"}
    bad = api.ask("POST", path, {"metadata": {"name": "x"}, "spec": {"size": 0, "color": "green"}})
    assert (api.code, {cause["field"] for cause in bad["details"]["causes"]}) == (422, {"spec.size", "spec.color"})
    groups = [group["name"] for group in api.ask("GET", "/apis")["groups"]]
    assert "example.com" in groups
    api.ask("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com")
    api.ask("GET", path)
    assert api.code == 404


def test_server_side_apply_creates_merges_and_names_conflicts(api: Client) -> None:
    def apply(manager: str, body: dict[str, Any], *, force: bool = False) -> Any:
        path = f"{CM}/a?fieldManager={manager}&force={str(force).lower()}"
        whole = {"apiVersion": "v1", "kind": "ConfigMap", **body}
        return api.ask("PATCH", path, whole, content="application/apply-patch+yaml")

    apply("one", {"data": {"x": "1", "y": "1"}})
    assert api.code == 201
    assert apply("two", {"data": {"z": "2", "y": "1"}})["data"] == {"x": "1", "y": "1", "z": "2"}
    refused = apply("two", {"data": {"z": "2", "x": "9"}})
    assert (api.code, refused["details"]["causes"][0]["field"]) == (409, ".data.x")
    assert apply("two", {"data": {"x": "9"}}, force=True)["data"] == {"x": "9", "y": "1"}
    assert apply("one", {"data": {}})["data"] == {"x": "9"}


def post(api: Client, *faults: dict[str, Any]) -> None:
    api.ask("POST", "/lab/faults", list(faults))
    assert api.code == 200


def test_a_status_fault_strikes_as_often_as_it_is_told(api: Client) -> None:
    post(api, {"kind": "status", "status": 429, "retry_after": 7, "resource": "pods", "count": 2})
    codes = []
    for _ in range(3):
        api.ask("GET", PODS)
        codes.append((api.code, api.headers.get("retry-after")))
    assert codes == [(429, "7"), (429, "7"), (200, None)]


def test_faults_are_aimed_by_method_path_verb_and_agent(api: Client) -> None:
    post(api, {"kind": "status", "method": "GET", "path": "limit=5", "verb": "list", "agent": "^agent/", "status": 503})
    api.ask("GET", f"{CM}?limit=5", User_Agent="kubectl")
    assert api.code == 200
    api.ask("GET", CM, User_Agent="agent/1")
    assert api.code == 200
    api.ask("GET", f"{CM}?limit=5", User_Agent="agent/1")
    assert api.code == 503
    assert api.ask("GET", "/lab/faults")[0]["status"] == 503
    api.ask("DELETE", "/lab/faults")
    api.ask("GET", f"{CM}?limit=5", User_Agent="agent/1")
    assert api.code == 200


def test_answers_are_dropped_truncated_and_garbled(api: Client) -> None:
    post(api, {"kind": "drop", "count": 1}, {"kind": "truncate", "count": 1}, {"kind": "garbage", "count": 1})
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        api.ask("GET", CM)
    with pytest.raises(http.client.IncompleteRead):
        api.ask("GET", CM)
    with pytest.raises(json.JSONDecodeError):
        api.ask("GET", CM)
    api.ask("GET", CM)
    assert api.code == 200


def test_a_watch_is_cut_after_so_many_events_even_when_it_runs_already(api: Client) -> None:
    watch = api.watch(f"{CM}?watch=1")
    post(api, {"kind": "cut", "resource": "configmaps", "after": 2})
    for name in "abc":
        api.ask("POST", CM, cm(name))
    assert watch.names(2) == [("ADDED", "a"), ("ADDED", "b")]
    with pytest.raises((EOFError, http.client.IncompleteRead, ConnectionResetError)):
        watch.next()


def test_a_muted_watch_stays_open_and_says_everything_once_the_fault_is_gone(api: Client) -> None:
    watch = api.watch(f"{CM}?watch=1")
    post(api, {"kind": "mute", "resource": "configmaps"})
    api.ask("POST", CM, cm("a"))
    api.ask("DELETE", "/lab/faults")
    assert watch.names(1) == [("ADDED", "a")]


def test_a_hanging_request_is_let_go_when_faults_are_cleared(api: Client) -> None:
    post(api, {"kind": "hang", "resource": "configmaps"})
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=0.2)
    connection.request("GET", CM)
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    api.ask("DELETE", "/lab/faults")
    api.ask("GET", CM)
    assert api.code == 200


@pytest.mark.parametrize("fault", [{"kind": "nope"}, {"kind": "drop", "pth": "x"}, {"kind": "drop", "path": "("}, 7])
def test_a_fault_that_is_none_is_refused(api: Client, fault: Any) -> None:
    api.ask("POST", "/lab/faults", [fault])
    assert api.code == 400


def test_tokens_are_checked_and_read_again_when_the_file_changes(start: Start, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret,agent\n")
    api = start(token_file=tokens, audit_log=tmp_path / "audit", listen_open=(("127.0.0.1", 0),))
    assert api.ask("GET", CM)["reason"] == "Unauthorized"
    api.ask("GET", "/healthz")
    assert api.code == 200
    api.ask("GET", CM, Authorization="Bearer secret", User_Agent="me/1")
    assert api.code == 200
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", api.server.open_port, timeout=5)) as unguarded:
        unguarded.request("GET", CM)
        assert unguarded.getresponse().status == 200
    tokens.write_text("another\n")
    api.ask("GET", CM, Authorization="Bearer secret")
    assert api.code == 401
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    noted = [
        (line["verb"], line["resource"], line["user"], line["code"]) for line in lines if line["user_agent"] == "me/1"
    ]
    assert noted == [("list", "configmaps", "agent", 200)]


def test_a_server_that_comes_back_has_its_objects_and_goes_on_counting(start: Start, tmp_path: Path) -> None:
    first = start(data=tmp_path / "journal")
    made = first.ask(
        "POST", SERVICES, {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}
    )
    version = int(made["metadata"]["resourceVersion"])
    second = start(data=tmp_path / "journal")
    assert second.ask("GET", f"{SERVICES}/s") == made
    watch = second.watch(f"{SERVICES}?watch=1&resourceVersion={version}")
    taken = made["spec"]["ports"][0]["nodePort"]
    body = {"metadata": {"name": "t"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": taken}]}}
    second.ask("POST", SERVICES, body)
    assert second.code == 422
    other = second.ask("POST", SERVICES, {"metadata": {"name": "t"}, "spec": {"ports": [{"port": 80}]}})
    assert other["spec"]["clusterIP"] != made["spec"]["clusterIP"]
    assert watch.names(1) == [("ADDED", "t")]
    assert int(other["metadata"]["resourceVersion"]) > version


def test_what_is_no_http_is_refused(api: Client) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", api.port), timeout=5) as sock:
        sock.sendall(b"what is this\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")


def test_bodies_in_chunks_are_read(api: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=5)
    parts = (part for part in (b'{"metadata": {"na', b'me": "a"}}'))
    connection.request("POST", CM, body=parts, headers={"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 201
    connection.close()
