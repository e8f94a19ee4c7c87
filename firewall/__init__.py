"""Policies to iptables and ipset: chains per policy and direction, one set per distinct selector, pods by a tree.

- ``peers`` says which sets exist, what they are called and what a pod puts into them;
- ``policies`` and ``cluster_policies`` make the rules of a policy, one function for both directions;
- ``chains`` holds the fixed chains and the tree that finds a pod's chain, ``pod_chains`` the pod's chain;
- ``facts`` says who judges which pod, ``affected`` what a change touches, ``controller`` what each owner wants;
- ``model`` reads the policies as people do, to explain and to hold against the kernel; ``flows`` says which must end.

Invariants, decisions and review notes are in DESIGN.md.
"""

from firewall.controller import CONTROLLER

__all__ = ["CONTROLLER"]
