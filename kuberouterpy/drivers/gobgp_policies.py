"""The import and the export policy of the GoBGP sidecar: versions, built beside the old one and assigned at once.

A version's name, and that of each of its sets, ends with a digest of its content. The new one takes the old one's place by one
``SetPolicyAssignment`` - there is no moment without policy - and then the old one goes. Sessions get a soft reset of that
direction, because GoBGP judges only what arrives later. GoBGP 3 sends what a wider export policy lets out, but does not
withdraw what a narrower one holds back until the session begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kuberouterpy.dataplane import RoutePolicy, RoutePolicyKey
from kuberouterpy.drivers import gobgp_neighbors as neighbors
from kuberouterpy.drivers.gobgp_statements import PREFIX, content, merged, statements
from kuberouterpy.gobgp import gobgp_pb2 as pb
from kuberouterpy.gobgp.client import GobgpClient
from kuberouterpy.gobgp.dialect import ACCEPT, DIRECTIONS, GLOBAL_TABLE, REJECT, Session, Shifted

NOTE_PREFIX: Final = f"{PREFIX}speaker-"
"""Begins the name of the one set that no policy uses and that is kept: the driver's note about the speaker."""


class Policies:
    """The policies of one daemon. Errors of every method: GobgpError."""

    def __init__(self, client: GobgpClient) -> None:
        self._client = client

    def list(self) -> Iterator[RoutePolicy]:
        """Yield what is assigned."""
        sets = self.sets()
        policies = {
            answer.policy.name: answer.policy
            for answer in self._client.collect("ListPolicy", pb.ListPolicyRequest(), pb.ListPolicyResponse)
        }
        for direction in DIRECTIONS:
            assignment = self._assignment(direction)
            if assignment is None or not assignment.policies:
                continue
            names = [policy.name for policy in assignment.policies]
            held = [one for name in names if name in policies for one in policies[name].statements]
            yield RoutePolicy(
                RoutePolicyKey(direction),
                tuple(merged(held, sets)),
                accept_by_default=assignment.default_action == ACCEPT,
            )

    def _assignment(self, direction: str) -> pb.PolicyAssignment | None:
        request = pb.ListPolicyAssignmentRequest(name=GLOBAL_TABLE, direction=DIRECTIONS[direction])
        answers = self._client.collect("ListPolicyAssignment", request, pb.ListPolicyAssignmentResponse)
        return answers[0].assignment if answers else None

    def sets(self) -> dict[str, pb.DefinedSet]:
        """Return every set of prefixes and of neighbors, by name."""
        found = {}
        for kind in (Shifted.SET_PREFIX, Shifted.SET_NEIGHBOR):
            request = pb.ListDefinedSetRequest(defined_type=self._number(kind))
            for answer in self._client.collect("ListDefinedSet", request, pb.ListDefinedSetResponse):
                found[answer.defined_set.name] = answer.defined_set
        return found

    def assign(self, policy: RoutePolicy) -> None:
        """Let a policy hold; what went before is swept away."""
        direction = policy.key.direction
        assignment = self._assignment(direction)
        name = f"{PREFIX}{direction}-{content(policy)}"
        held = [one.name for one in assignment.policies] if assignment is not None else []
        action = ACCEPT if policy.accept_by_default else REJECT
        if held != [name] or assignment is None or assignment.default_action != action:
            self._build(policy, name)
            wanted = pb.PolicyAssignment(
                name=GLOBAL_TABLE,
                direction=DIRECTIONS[direction],
                policies=[pb.Policy(name=name)],
                default_action=action,
            )
            self._client.call("SetPolicyAssignment", pb.SetPolicyAssignmentRequest(assignment=wanted), pb.Nothing)
            self._reset(Shifted.RESET_IN if direction == "import" else Shifted.RESET_OUT)
        self._sweep()

    def unassign(self, direction: str) -> None:
        """Return to the state of a fresh speaker, which accepts everything."""
        if getattr(self._assignment(direction), "policies", ()):
            empty = pb.PolicyAssignment(name=GLOBAL_TABLE, direction=DIRECTIONS[direction], default_action=ACCEPT)
            self._client.call("SetPolicyAssignment", pb.SetPolicyAssignmentRequest(assignment=empty), pb.Nothing)
        self._sweep()

    def _build(self, policy: RoutePolicy, name: str) -> None:
        """Make a version with its sets; parts that are there from a try that was cut short are taken as they are."""
        sets = self.sets()
        found = []
        for index, statement in enumerate(policy.statements):
            for made in statements(statement, f"{name}-{index:03d}", self._number):
                for wanted in made.sets:
                    if wanted.name not in sets:
                        self._client.call("AddDefinedSet", pb.AddDefinedSetRequest(defined_set=wanted), pb.Nothing)
                        sets[wanted.name] = wanted
                found.append(made.statement)
        known = self._client.collect("ListPolicy", pb.ListPolicyRequest(), pb.ListPolicyResponse)
        if name not in {answer.policy.name for answer in known}:
            request = pb.AddPolicyRequest(policy=pb.Policy(name=name, statements=found))
            self._client.call("AddPolicy", request, pb.Nothing)

    def _reset(self, direction: Shifted) -> None:
        """Let every established session judge again what it knows; none goes down."""
        for address, peer in neighbors.peers(self._client).items():
            if peer.state.session_state == Session.ESTABLISHED:
                request = pb.ResetPeerRequest(address=address, soft=True, direction=self._number(direction))
                self._client.call("ResetPeer", request, pb.Nothing)

    def _sweep(self) -> None:
        """Delete versions and sets that nothing uses."""
        used = {
            policy.name for direction in DIRECTIONS for policy in getattr(self._assignment(direction), "policies", ())
        }
        used_sets: set[str] = set()
        for answer in self._client.collect("ListPolicy", pb.ListPolicyRequest(), pb.ListPolicyResponse):
            policy = answer.policy
            if policy.name in used:
                for statement in policy.statements:
                    used_sets |= {statement.conditions.prefix_set.name, statement.conditions.neighbor_set.name}
            else:
                self._client.call("DeletePolicy", pb.DeletePolicyRequest(policy=policy, all=True), pb.Nothing)
        for name, unused in self.sets().items():
            if name not in used_sets and not name.startswith(NOTE_PREFIX):
                request = pb.DeleteDefinedSetRequest(defined_set=unused, all=True)
                self._client.call("DeleteDefinedSet", request, pb.Nothing)

    def _number(self, value: Shifted) -> int:
        return self._client.dialect.number(value)
