"""From a pod to its network namespace, by the container runtime's own gRPC API (CRI).

Below drivers, which ask it, and the lab, whose kubelet serves the same two calls: so there is one way into pods, and the lab is
its test. The protocol is a small proto of ours (``cri.proto``) with the API's field numbers; ``cri_pb2.py`` is generated as
:mod:`kuberouterpy.gobgp` says, from ``kuberouterpy/cri/cri.proto``.
"""
