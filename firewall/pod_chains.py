"""The chain of a pod in one direction, where verdicts are carried out, and the chains of policies it asks.

Who judges a pod, in the order of its chain; the first verdict counts::

    forget what the pod at the other end was told
    KUBE-NWPLCY-... of each Admin policy, while none has a verdict      denied: NFLOG; DROP
    accepted: RETURN
    forget a pass
    (egress) to this host: RETURN             NetworkPolicies never deny a pod its own node
    KUBE-NWPLCY-... of each NetworkPolicy     allowed: RETURN      NFLOG; DROP
    or, where none isolates it: audited ones, which end in NFLOG; then each Baseline policy as the Admin ones

A chain holds only the parts that the pod has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from firewall.cluster_policies import ACCEPTED, DENIED, FORGET_VERDICT, UNDECIDED, title
from firewall.facts import Judges
from firewall.policies import ALLOWED, FORGET, UNALLOWED, Direction, policy_chain_name, shortened
from kuberouterpy.cluster import ClusterNetworkPolicy, NetworkPolicy, Pod, Ref
from kuberouterpy.dataplane import Chain, ChainKey, Rule, Table
from kuberouterpy.family import Family
from kuberouterpy.names import hashed
from kuberouterpy.store import Policy

NFLOG_GROUP: Final = 100
"""kube-router's."""

_NFLOG_PREFIX: Final = 63
"""nflog's prefix has 64 bytes with its end."""
_LOG_LIMIT: Final = ("-m", "limit", "--limit", "10/second", "--limit-burst", "20")
"""Each pod and direction has its own: a flood against one pod hides nobody else's."""


def pod_chain_name(pod: Ref, direction: Direction) -> str:
    """Return the name of a pod's chain; a function of namespace, name and direction only."""
    return hashed("KUBE-POD-FW-", pod.namespace, pod.name, direction)


def pod_chain(pod: Pod, judges: Judges, direction: Direction, family: Family) -> Chain:
    """Return the chain of a pod that somebody judges."""
    of = shortened(f"{direction} of {pod.ref}")
    # The mark may be left over from the pod at the other end, whose egress was judged a moment ago.
    rules = [Rule((), FORGET_VERDICT if judges.admin or judges.baseline else FORGET, of)]
    if judges.admin:
        rules += _tier(judges.admin, pod, direction)
        rules += [Rule(ACCEPTED, ("RETURN",), "accepted"), Rule((), FORGET_VERDICT, "passed on to policies")]
    if direction is Direction.EGRESS and (judges.policies or judges.audited):
        rules.append(Rule(("-m", "addrtype", "--dst-type", "LOCAL"), ("RETURN",), "a pod always reaches its own node"))
    if judges.policies:
        rules += _isolation(judges.policies, pod, direction)
    elif judges.audited:
        rules += _audit(judges.audited, pod, direction)
    if judges.baseline:
        rules += _tier(judges.baseline, pod, direction)
        rules.append(Rule((), FORGET_VERDICT, "not denied"))
    return chain_of(family, pod_chain_name(pod.ref, direction), rules)


def _tier(policies: Sequence[ClusterNetworkPolicy], pod: Pod, direction: Direction) -> Iterator[Rule]:
    for index, policy in enumerate(policies):
        name = title(policy)
        asked = UNDECIDED if index else ()
        yield Rule(asked, (policy_chain_name(policy, direction),), shortened(f"policy {name}"))
        yield _log(f"{direction.short}:{pod.ref}:{name}", DENIED)
        yield Rule(DENIED, ("DROP",), shortened(f"{direction} of {pod.ref} denied by {name}"))


def _isolation(policies: Sequence[NetworkPolicy], pod: Pod, direction: Direction) -> Iterator[Rule]:
    names = _names(policies)
    yield from _asked(policies, direction)
    yield Rule(ALLOWED, ("RETURN",), "a policy allows it")
    yield denied_log(f"{direction.short}:{pod.ref}:{names}")
    yield Rule((), ("DROP",), shortened(f"{direction} of {pod.ref} denied by {names}"))


def _audit(policies: Sequence[NetworkPolicy], pod: Pod, direction: Direction) -> Iterator[Rule]:
    names = _names(policies)
    yield from _asked(policies, direction)
    yield _log(f"audit:{direction.short}:{pod.ref}:{names}", UNALLOWED)
    # Without the limit of the log: this rule counts what would be dropped.
    yield Rule(UNALLOWED, FORGET, shortened(f"{direction} of {pod.ref} would be denied by {names}"))
    yield Rule((), FORGET, "audited only")


def _names(policies: Iterable[NetworkPolicy]) -> str:
    return ",".join(policy.ref.name for policy in policies)


def _asked(policies: Iterable[NetworkPolicy], direction: Direction) -> Iterator[Rule]:
    for one in policies:
        yield Rule((), (policy_chain_name(one, direction),), shortened(f"policy {one.ref}"))


def policy_chain(policy: Policy, rules: Iterable[Rule], direction: Direction, family: Family) -> Chain:
    """Return the chain of a policy and direction."""
    return chain_of(family, policy_chain_name(policy, direction), rules)


def denied_log(prefix: str) -> Rule:
    """Return the rule that tells of a packet about to be dropped."""
    return _log(prefix, ())


def _log(prefix: str, match: tuple[str, ...]) -> Rule:
    return Rule(
        (*match, *_LOG_LIMIT),
        ("NFLOG", "--nflog-group", str(NFLOG_GROUP), "--nflog-prefix", prefix[:_NFLOG_PREFIX]),
        "tell who was denied",
    )


def chain_of(family: Family, name: str, rules: Iterable[Rule]) -> Chain:
    """Return a chain of the filter table."""
    return Chain(ChainKey(family, Table.FILTER, name), tuple(rules))
