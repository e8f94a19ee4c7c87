"""Where one packet goes through a node: rules, sets and virtual servers that stand or are wanted, walked as the kernel does.

A :class:`World` is objects of :mod:`kuberouterpy.dataplane`, whoever they come from: the agent's Tracker (what is wanted) or a
listing of the kernel (what stands). :mod:`.rules` reads chains as iptables does; :mod:`.walk` meets the hooks in kernel order:
a packet to a VIP goes PREROUTING, INPUT, ip_vs, OUTPUT with the endpoint as destination, POSTROUTING.

Nothing here knows what a Service or a policy means: verdicts are read from the very objects the agent programs. What no rule
here understands is a doubt, told with the result, never a guess in silence.
"""

from __future__ import annotations

from kuberouterpy.tracing.rules import Packet, Verdict
from kuberouterpy.tracing.walk import LOOPBACK, Fate, Hop, Place, Way, walk
from kuberouterpy.tracing.world import World

__all__ = ["LOOPBACK", "Fate", "Hop", "Packet", "Place", "Verdict", "Way", "World", "walk"]
