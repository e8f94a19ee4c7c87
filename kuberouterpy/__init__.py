"""A node agent for Kubernetes networks: IPVS service proxy, BGP router and NetworkPolicy firewall, in one process.

The agent on one page::

     Source --Event--> Store --Change--> affected() --Owner--> desired() --Objects--> Tracker --Op--> Driver
     (thread)          (facts, indexes)   pure, per controller  pure, per owner        (want vs have)   (kernel, GoBGP)
     '------------------------------ Loop: one thread, one step(now) -> next deadline ------------------------------'

Only ``sources/`` (in) and ``drivers/`` (out) touch the world. The controllers ``proxy``, ``routing`` and ``firewall`` are
pure functions of facts. One thread writes. Import contracts in ``pyproject.toml`` keep it so.
"""

__version__ = "0.1.0"
