"""The store: what changes, and that every index agrees with a walk over everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kuberouterpy.cluster import (
    Delete,
    EndpointSlice,
    Event,
    Namespace,
    NetworkPolicy,
    Pod,
    PolicyRule,
    Ref,
    Rejection,
    Replace,
    Service,
    ServiceType,
    Upsert,
)
from kuberouterpy.family import IPV4
from kuberouterpy.labels import EVERYTHING, PodSelector, selector, term
from kuberouterpy.store import Change, Store

WEB = Ref("default", "web")


def pod(name: str, namespace: str = "default", **labels: str) -> Pod:
    return Pod(Ref(namespace, name), node="node-1", addresses=("10.1.0.1", "fd00::1"), labels=labels)


def test_an_equal_record_is_no_change() -> None:
    store = Store()
    service = Service(WEB, ServiceType.CLUSTER_IP, ("10.96.0.10",))
    assert store.apply(Upsert(service)) == [Change(None, service)]
    assert store.apply(Upsert(Service(WEB, ServiceType.CLUSTER_IP, ("10.96.0.10",)))) == []
    assert store.apply(Delete(Service, WEB)) == [Change(service, None)]
    assert store.apply(Delete(Service, WEB)) == []


def test_it_is_synced_once_every_expected_kind_was_listed() -> None:
    store = Store([Service, Pod])
    store.apply(Upsert(pod("a")))
    assert store.waiting_for == ("Pod", "Service")
    store.apply(Replace(Service, ()))
    store.apply(Replace(Pod, ()))
    assert store.synced


def test_a_list_removes_what_it_does_not_name() -> None:
    store = Store()
    store.apply(Upsert(pod("a")))
    store.apply(Upsert(pod("b")))
    changes = store.apply(Replace(Pod, (pod("b", app="new"),)))
    assert {
        (change.before and change.before.ref.name, change.after and change.after.ref.name) for change in changes
    } == {
        ("a", None),
        ("b", "b"),
    }


def test_a_rejected_object_keeps_its_last_good_record() -> None:
    store = Store()
    store.apply(Upsert(pod("a")))
    rejection = Rejection(Pod, Ref("default", "a"), "status.podIPs[0]: nonsense")
    assert store.apply(rejection) == []
    assert store.apply(Replace(Pod, (), (rejection,))) == []
    assert store.pods.get(Ref("default", "a")) == pod("a")
    assert store.rejections
    store.apply(Upsert(pod("a", app="web")))
    assert store.rejections == {}


def test_slices_are_found_by_the_service_they_belong_to_now() -> None:
    store = Store()
    ref = Ref("default", "web-1")
    store.apply(Upsert(EndpointSlice(ref, WEB, IPV4)))
    store.apply(Upsert(EndpointSlice(ref, Ref("default", "api"), IPV4)))
    assert list(store.slices_of(WEB)) == []
    assert [one.ref for one in store.slices_of(Ref("default", "api"))] == [ref]


def test_pods_of_a_namespace_that_has_not_arrived_match_no_namespace_selector() -> None:
    store = Store()
    store.apply(Upsert(pod("a")))
    everywhere = PodSelector(EVERYTHING, namespaces=selector(None, (term("x", "NotIn", ("y",)),)))
    assert list(store.pods_matching(everywhere)) == []
    assert list(store.pods_matching(PodSelector(EVERYTHING, namespaces=EVERYTHING))) == []
    store.apply(Upsert(Namespace(Ref("", "default"))))
    assert list(store.pods_matching(everywhere)) == [pod("a")]
    assert list(store.pods_matching(PodSelector(EVERYTHING, namespaces=EVERYTHING))) == [pod("a")]


def test_policies_are_found_by_every_selector_among_their_peers() -> None:
    store = Store()
    peer = PodSelector(selector({"app": "web"}), namespace="default")
    policy = NetworkPolicy(Ref("default", "p"), EVERYTHING, ingress=(PolicyRule((peer,)),))
    store.apply(Upsert(policy))
    assert list(store.policies_using(peer)) == [policy]
    store.apply(Delete(NetworkPolicy, policy.ref))
    assert list(store.policies_using(peer)) == []


_names = st.sampled_from("abc")
_labels = st.dictionaries(st.sampled_from("kl"), st.sampled_from("xy"), max_size=2)
_pods = st.builds(lambda ns, name, labels: Pod(Ref(ns, name), node=name, labels=labels), _names, _names, _labels)
_namespaces = st.builds(lambda name, labels: Namespace(Ref("", name), labels), _names, _labels)
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Upsert, st.one_of(_pods, _namespaces)),
    st.builds(lambda one: Delete(type(one), one.ref), st.one_of(_pods, _namespaces)),
    st.builds(lambda pods: Replace(Pod, tuple({one.ref: one for one in pods}.values())), st.lists(_pods, max_size=4)),
)
_terms = st.one_of(
    st.builds(term, st.sampled_from("kl"), st.sampled_from(["In", "NotIn"]), st.sampled_from([("x",), ("x", "y")])),
    st.builds(term, st.sampled_from("kl"), st.sampled_from(["Exists", "DoesNotExist"])),
)
_selectors = st.builds(selector, st.none(), st.lists(_terms, max_size=2).map(tuple))
_pod_selectors = st.one_of(
    st.builds(PodSelector, _selectors, _names),
    st.builds(lambda pods, namespaces: PodSelector(pods, namespaces=namespaces), _selectors, _selectors),
)


@given(st.lists(_events), _pod_selectors)
def test_indexes_find_what_a_walk_over_everything_finds(events: list[Event], chosen: PodSelector) -> None:
    store = Store()
    for event in events:
        store.apply(event)
    walked = {one.ref for one in store.pods if store.matches(chosen, one)}
    assert {one.ref for one in store.pods_matching(chosen)} == walked
