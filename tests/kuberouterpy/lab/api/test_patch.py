from __future__ import annotations

from typing import Any

import pytest

from kuberouterpy.lab.api import patch
from kuberouterpy.lab.api.errors import StatusError


def test_a_merge_patch_deletes_nulls_merges_objects_and_replaces_lists() -> None:
    target = {"a": {"b": 1, "c": 2}, "l": [1, 2], "x": 1}
    assert patch.merge(target, {"a": {"c": None, "d": {"e": 3, "f": None}}, "l": [9]}) == {
        "a": {"b": 1, "d": {"e": 3}},
        "l": [9],
        "x": 1,
    }


def test_a_json_patch_does_all_six_operations() -> None:
    target = {"a": [1, 2, 3], "b": {"x/y": 1}, "c": 1}
    operations = [
        {"op": "test", "path": "/b/x~1y", "value": 1},
        {"op": "add", "path": "/a/1", "value": 9},
        {"op": "add", "path": "/a/-", "value": 8},
        {"op": "remove", "path": "/a/0"},
        {"op": "replace", "path": "/c", "value": 2},
        {"op": "move", "from": "/b/x~1y", "path": "/m"},
        {"op": "copy", "from": "/c", "path": "/d"},
    ]
    assert patch.json_patch(target, operations) == {"a": [9, 2, 3, 8], "b": {}, "c": 2, "m": 1, "d": 2}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/nope"},
        {"op": "replace", "path": "/nope", "value": 1},
        {"op": "add", "path": "/a/b/c", "value": 1},
        {"op": "fly", "path": "/a"},
        {"path": "/a"},
    ],
)
def test_a_json_patch_that_cannot_be_done_is_refused(operation: dict[str, Any]) -> None:
    with pytest.raises(StatusError) as refusal:
        patch.json_patch({"a": 1}, [operation])
    assert refusal.value.code == 422


def strategic(target: Any, change: Any, kind: str = "V1Pod") -> Any:
    return patch.strategic(target, change, kind)


def test_a_strategic_patch_merges_containers_by_name_and_their_env_by_name() -> None:
    target = {
        "spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}
    }
    change = {
        "spec": {"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]}
    }
    assert strategic(target, change)["spec"]["containers"] == [
        {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "b"},
        {"name": "c"},
    ]


def test_a_strategic_patch_deletes_items_and_keeps_the_order_it_is_told() -> None:
    target = {"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}
    change = {
        "spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
            "containers": [{"name": "b", "$patch": "delete"}, {"name": "c", "image": "x"}],
        }
    }
    assert strategic(target, change)["spec"]["containers"] == [{"name": "c", "image": "x"}, {"name": "a"}]


def test_service_ports_of_one_number_and_two_protocols_are_two_ports() -> None:
    target = {
        "spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "protocol": "TCP", "name": "t"}]}
    }
    change = {"spec": {"ports": [{"port": 53, "protocol": "TCP", "targetPort": 5353}]}}
    assert strategic(target, change, "V1Service")["spec"]["ports"] == [
        {"port": 53, "protocol": "UDP", "name": "u"},
        {"port": 53, "protocol": "TCP", "name": "t", "targetPort": 5353},
    ]


def test_lists_without_a_merge_key_are_replaced() -> None:
    target = {"spec": {"tolerations": [{"key": "a"}]}}
    assert strategic(target, {"spec": {"tolerations": [{"key": "b"}]}})["spec"]["tolerations"] == [{"key": "b"}]


def test_conditions_merge_by_type_and_finalizers_as_a_set() -> None:
    target = {"metadata": {"finalizers": ["a", "b"]}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    change = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized"}]},
    }
    patched = strategic(target, change)
    assert patched["metadata"]["finalizers"] == ["b", "c"]
    assert patched["status"]["conditions"] == [{"type": "Ready", "status": "True"}, {"type": "Initialized"}]


def test_retain_keys_drops_what_the_other_strategy_had() -> None:
    target = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    change = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic(target, change, "V1Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_replace_directives_replace() -> None:
    target = {"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a"}]}}
    change = {
        "metadata": {"labels": {"$patch": "replace", "b": "2"}},
        "spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]},
    }
    assert strategic(target, change) == {"metadata": {"labels": {"b": "2"}}, "spec": {"containers": [{"name": "z"}]}}


def test_an_item_without_its_merge_key_is_refused() -> None:
    with pytest.raises(StatusError, match="declared merge key: name"):
        strategic({"spec": {"containers": []}}, {"spec": {"containers": [{"image": "x"}]}})
