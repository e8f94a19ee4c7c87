"""Kubernetes Services to IPVS: virtual servers for every address a Service has, real servers for what serves them.

One Service is one owner. Its objects are a function of the Service, its EndpointSlices, the Host and the Config:

- ``frontends`` says where a Service listens on this host;
- ``services`` makes its virtual and real servers;
- ``endpoints`` says which endpoints serve: readiness tiers, topology hints, traffic policy, draining;
- ``origins`` leads clients inside this node to other servers than those outside, by ``marks``;
- ``affinity`` leads clients back to the endpoint they had, where the timeout is short;
- ``dsr`` has endpoints answer from an address themselves, where a Service asks for it;
- ``rivals`` says who else has a right to an address;
- ``masquerade`` holds the few static rules over sets: source NAT, hairpin, refusal of unused ports of VIPs;
- ``controller`` ties them to owners.

Invariants and review notes are in DESIGN.md.
"""

from proxy.controller import CONTROLLER
from proxy.marks import is_ours as is_mark

__all__ = ["CONTROLLER", "is_mark"]
