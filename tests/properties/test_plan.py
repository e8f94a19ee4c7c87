"""``plan`` against the agent: the plan is what the agent then does, after it nothing is left, and it names nothing foreign."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings

from kuberouterpy import answers, offline
from kuberouterpy.cluster import Record
from kuberouterpy.dataplane import Chain, ChainKey, Object, Set, SetKey, Table, VirtualServer, VirtualServerKey
from kuberouterpy.drivers import fake
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.protocol import Protocol
from kuberouterpy.text import name_of
from tests.properties.test_firewall import clusters
from tests.properties.test_trace import facts_of

FOREIGN: Sequence[Object] = (
    Set(SetKey("kube-route"), IPV4, "hash:ip"),
    Chain(ChainKey(IPV6, Table.FILTER, "KUBE-SERVICES")),
    VirtualServer(VirtualServerKey(IPV4, Protocol.TCP, "10.96.0.99", 80)),
    VirtualServer(VirtualServerKey(IPV6, Protocol.TCP, "fd00::1", 443)),
)


def agent(facts: offline.Facts, shared: fake.FakeKernel) -> tuple[Loop, tuple[fake.FakeDriver, ...]]:
    """Return an agent over a kernel that others use as well; it has not made a step yet."""
    config = facts_config(facts)
    drivers = fake.kernel(shared)
    loop = Loop(
        config=config,
        controllers=tuple(offline.controllers(config)),
        drivers=[Programmed(one, period_s=1e9) for one in drivers],
        expected=(),
    )
    for event in offline.events(facts, offline.links_of(facts)):
        loop.put(event)
    return loop, drivers


def facts_config(facts: offline.Facts) -> offline.Config:
    return offline.Config(
        node_name=facts.node, enable_ipv6=True, service_cluster_ip_range=("10.96.0.0/12", "fd00:96::/112")
    )


@settings(max_examples=30, deadline=None)
@given(clusters(), clusters())
def test_the_plan_is_what_the_agent_does_and_then_there_is_none(
    first: tuple[Record, ...], second: tuple[Record, ...]
) -> None:
    """From nothing, and from one world to another: what an agent of the first left is taken over by one of the second."""
    shared = fake.FakeKernel()
    shared.plant(*FOREIGN)
    for records in (first, second):
        facts, _, _ = facts_of(records)
        config, links = facts_config(facts), offline.links_of(facts)
        planned = answers.plan(offline.build(config, facts, links, fake.kernel(shared)))
        loop, drivers = agent(facts, shared)
        loop.step(1.0)
        loop.step(2.0)
        done = {(str(op.verb), name_of(op.key)) for driver in drivers for op in driver.log}
        assert {(change.verb, change.name) for change in planned.changes} == done
        assert answers.plan(loop).changes == ()
        assert answers.plan(offline.build(config, facts, links, fake.kernel(shared))).changes == ()
        foreign = {name_of(value.key) for value in FOREIGN}
        assert not foreign & {change.name for change in planned.changes}
        assert shared.intrusions == []
        assert {value.key: value for value in FOREIGN} == shared.foreign
