"""NetworkPolicies to iptables and ipset: chains per policy and direction, one set per distinct selector, pods by a tree.

- ``peers`` says which sets exist, what they are called and what a pod puts into them;
- ``policies`` makes the rules of a policy, one function for both directions;
- ``chains`` holds the fixed chains, the tree that finds a pod's chain, and the pod's chain;
- ``controller`` ties them to owners and says what a change touches.

Invariants, decisions and review notes are in DESIGN.md.
"""

from firewall.controller import CONTROLLER

__all__ = ["CONTROLLER"]
