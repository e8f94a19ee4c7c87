"""The lab's API server: what a Kubernetes API server shows to its clients, in one small process.

``kubectl`` and the ``kubernetes`` client work against it unchanged. It stores objects in memory (and in a journal, when told
to), hands out versions, watches, cluster addresses and node ports, refuses what a real server refuses, and can be told to
misbehave. It has no controllers but the garbage collector: endpoint slices, pod starts and node ranges are others' work.

Reading order: ``resources`` (what is served) > ``storage`` (objects and versions) > ``rest`` (verbs) > ``server`` (HTTP).
Only the standard library, msgspec and PyYAML are imported, and YAML only when a request brings some: the process must start
fast on the slow processor of a User-Mode Linux guest.
"""
