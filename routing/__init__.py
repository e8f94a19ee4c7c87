"""Nodes and VIPs to BGP, best paths to kernel routes: one speaker (GoBGP, beside us) on every node.

- ``neighbors`` says whom to peer with: every other node, and external routers by flag;
- ``paths`` says what to announce: this node's pod CIDRs and the VIPs of Services, with reasons when not;
- ``policies`` says what may pass a session in either direction;
- ``fib`` makes a kernel route of a best path, through a tunnel where the node is off-subnet;
- ``overlay`` makes the tunnels, ``egress`` the source NAT of pods, ``cni`` the pods' bridge and its configuration;
- ``controller`` ties them to owners.

What the neighbors tell is believed only as far as ``policies`` let it in and ``fib`` finds it harmless: never a default
route, never a part of our own pod CIDRs, of the Services' ranges or of the subnets the host stands in. Invariants and review
notes are in DESIGN.md.
"""

from routing.controller import CONTROLLER

__all__ = ["CONTROLLER"]
