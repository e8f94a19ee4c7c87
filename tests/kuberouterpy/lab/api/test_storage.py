from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kuberouterpy.lab.api.journal import Journal
from kuberouterpy.lab.api.storage import Compacted, Storage


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "uid": name}, "spec": spec}


def put(storage: Storage, name: str, **spec: Any) -> int:
    return storage.put("pods", ("a", name), pod(name, **spec)).version


def names(items: list[Any]) -> list[str]:
    return [key[1] for key, _ in items]


def test_every_write_of_any_resource_takes_the_next_version() -> None:
    storage = Storage()
    assert [put(storage, "x"), put(storage, "y")] == [1, 2]
    storage.put("nodes", ("", "n"), {"metadata": {"name": "n"}})
    assert put(storage, "x", n=1) == 4


def test_storing_what_is_there_makes_neither_version_nor_event() -> None:
    storage = Storage()
    put(storage, "x", n=1)
    assert put(storage, "x", n=1) == 1
    assert len(storage.after("pods", 0)) == 1


def test_a_deletion_is_an_event_with_a_version_of_its_own() -> None:
    storage = Storage()
    put(storage, "x", n=1)
    storage.remove("pods", ("a", "x"))
    deleted = storage.after("pods", 1)[0]
    assert (deleted.type, deleted.version) == ("DELETED", 2)
    assert deleted.after.obj["metadata"]["resourceVersion"] == "2"
    assert deleted.after.obj["spec"] == {"n": 1}


def test_a_list_of_the_past_is_what_was_there_then() -> None:
    storage = Storage()
    put(storage, "x", n=1)
    then = put(storage, "y")
    put(storage, "x", n=2)
    storage.remove("pods", ("a", "y"))
    put(storage, "z")
    past = storage.items_at("pods", "a", then)
    assert names(past) == ["x", "y"]
    assert past[0][1].obj["spec"] == {"n": 1}
    assert names(storage.items("pods", "a")[0]) == ["x", "z"]


def test_compaction_forgets_the_past_of_every_resource_but_not_the_present() -> None:
    storage = Storage()
    put(storage, "x")
    put(storage, "y")
    storage.compact()
    with pytest.raises(Compacted):
        storage.after("pods", 1)
    with pytest.raises(Compacted):
        storage.after("services", 1)
    assert storage.after("pods", 2) == []
    assert names(storage.items("pods")[0]) == ["x", "y"]


def test_the_window_is_bounded() -> None:
    storage = Storage(window=3)
    for number in range(20):
        put(storage, "x", n=number)
    assert len(storage.table("pods").events) <= 6
    with pytest.raises(Compacted):
        storage.after("pods", 1)
    assert [event.version for event in storage.after("pods", 17)] == [18, 19, 20]


def test_a_journal_brings_back_objects_versions_and_history(tmp_path: Path) -> None:
    first = Storage(journal=Journal(tmp_path / "journal"))
    put(first, "x", n=1)
    put(first, "x", n=2)
    put(first, "y")
    first.remove("pods", ("a", "y"))
    # A SIGKILL: nothing is closed.
    second = Storage(journal=Journal(tmp_path / "journal"))
    assert second.version == 4
    assert names(second.items("pods")[0]) == ["x"]
    assert [event.type for event in second.after("pods", 1)] == ["MODIFIED", "ADDED", "DELETED"]
    assert put(second, "z") == 5
    assert second.uids == {"x": ("pods", ("a", "x")), "z": ("pods", ("a", "z"))}
    first.close()
    second.close()


def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Storage(journal=Journal(path))
    put(first, "x")
    put(first, "y")
    first.close()
    path.write_bytes(path.read_bytes()[:-7])
    second = Storage(journal=Journal(path))
    assert names(second.items("pods")[0]) == ["x"]
    assert put(second, "z") == 2
    second.close()
    third = Storage(journal=Journal(path))
    assert names(third.items("pods")[0]) == ["x", "z"]
    third.close()


def test_a_journal_that_is_mostly_history_begins_afresh_with_the_version_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = Storage(journal=Journal(path))
    for number in range(5_100):
        put(first, "x", n=number)
    first.close()
    size = path.stat().st_size
    second = Storage(journal=Journal(path))
    second.close()
    assert path.stat().st_size < size / 1_000
    third = Storage(journal=Journal(path))
    assert third.version == 5_100
    assert third.items("pods")[0][0][1].obj["spec"] == {"n": 5_099}
    with pytest.raises(Compacted):
        third.after("pods", 5_000)
    assert put(third, "y") == 5_101
    third.close()
