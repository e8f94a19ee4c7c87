"""GoBGP's gRPC API and BGP's bytes, shared by the driver that programs the sidecar and the source that watches it.

Neither may import the other, so what both need stands below them: the small proto of ours (``gobgp.proto``), the two dialects
of it (:mod:`kuberouterpy.gobgp.dialect`), a client with short deadlines (:mod:`kuberouterpy.gobgp.client`) and the path
attributes as RFC 4271 writes them (:mod:`kuberouterpy.gobgp.wire`).

``gobgp_pb2.py`` is generated with grpcio-tools 1.60: its code runs on protobuf 4.25 and every later one, newer generators
would refuse an older runtime. To regenerate, from the repository's root::

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. kuberouterpy/gobgp/gobgp.proto
"""
