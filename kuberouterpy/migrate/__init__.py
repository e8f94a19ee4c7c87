"""From kube-proxy or kube-router to this agent on one node, without losing a connection, and back.

Four steps, each of which can be repeated: *observe* compares what the one before programmed with what the agent wants; *adopt*
writes down what is theirs, once the agent serves the same; *own* removes what is provably theirs, once they are gone;
*rollback* puts it back from what was written down.

Virtual servers are never deleted and made again: the agent takes over those that stand, by their address and port, and the
connections in them live on. kube-router's objects have the names of ours, so the agent adopts them by itself.

:mod:`.remains` and :mod:`.servers` are pure and read dumps; :mod:`.kernel` takes the dumps and acts.
"""
