"""Addresses for Services of type LoadBalancer (``--run-loadbalancer``): one leader of all agents gives them.

``pools`` decides, purely; ``election`` says who works; ``claims`` makes an address one Service's; ``allocator`` does it. What
must never happen, one address in the status of two Services, does not hang on the election: DESIGN.md has the argument.
"""
