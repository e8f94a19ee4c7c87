"""A ClusterNetworkPolicy as rules: one chain for each direction that marks its verdict; the pod's chain carries it out.

Rules of such a policy are ordered, and the first that matches decides. So each item is its matches, all with the mark of the
item's action, and a return for what now has a verdict. A verdict is two bits of the packet's mark::

    0x00010000   accepted    the bit that NetworkPolicies set as well
    0x80000000   passed      nothing more of this tier
    both         denied
    neither      this policy says nothing of it

Bit 31 because firewall-mark virtual servers use the ones above 16 (``proxy.marks``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from firewall.policies import MARK, Direction, block_sets, matches, shortened
from kuberouterpy.cluster import Action, ClusterNetworkPolicy, ClusterRule
from kuberouterpy.dataplane import Entry, Rule, Set
from kuberouterpy.family import Family

_PASSED: Final = "0x80000000"
_BOTH: Final = "0x80010000"
_VALUES: Final = {Action.ACCEPT: MARK, Action.PASS: _PASSED, Action.DENY: _BOTH}

FORGET_VERDICT: Final = ("MARK", "--set-xmark", f"0x0/{_BOTH}")
ACCEPTED: Final = ("-m", "mark", "--mark", f"{MARK}/{_BOTH}")
DENIED: Final = ("-m", "mark", "--mark", f"{_BOTH}/{_BOTH}")
UNDECIDED: Final = ("-m", "mark", "--mark", f"0x0/{_BOTH}")
_DECIDED: Final = ("-m", "mark", "!", "--mark", f"0x0/{_BOTH}")


def title(policy: ClusterNetworkPolicy) -> str:
    """Return the name that tells it from a NetworkPolicy."""
    return f"cnp/{policy.ref.name}"


def order(policy: ClusterNetworkPolicy) -> tuple[int, str]:
    """Return what a tier is sorted by; the API leaves equal priorities open, here the name decides."""
    return policy.priority, policy.ref.name


def items(policy: ClusterNetworkPolicy, direction: Direction) -> tuple[ClusterRule, ...]:
    """Return the policy's rules of a direction, in order."""
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def rules(policy: ClusterNetworkPolicy, direction: Direction, family: Family) -> Iterator[Rule]:
    """Yield the rules of the policy's chain."""
    own = items(policy, direction)
    for index, item in enumerate(own):
        target = ("MARK", "--set-xmark", f"{_VALUES[item.action]}/{_BOTH}")
        # No peers: an Accept that could not be read, which matches nothing.
        found = dict(matches(policy.subject, item.peers, item.ports, direction, family)) if item.peers else {}
        name = f" {item.name}" if item.name else ""
        for arguments, text in found.items():
            yield Rule(arguments, target, shortened(f"{title(policy)} {direction}[{index}]{name} {item.action} {text}"))
        if found and index + 1 < len(own):
            yield Rule(_DECIDED, ("RETURN",), "the first rule that matches decides")


def sets(policy: ClusterNetworkPolicy, direction: Direction, family: Family) -> Iterator[Set | Entry]:
    """Yield the sets of networks, with their entries, that :func:`rules` match on."""
    for item in items(policy, direction):
        yield from block_sets(item.peers, family)
