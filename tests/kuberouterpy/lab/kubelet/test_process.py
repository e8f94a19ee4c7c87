"""Processes of containers and probes, and the thread that waits for them."""

from __future__ import annotations

import os
import queue
import signal

from kuberouterpy.lab.kubelet.process import Command, Process, Reaper


def test_the_end_of_a_process_that_was_signalled_after_it_ended_is_told() -> None:
    """Signalling takes an ended child's number away; the reaper must not need it any more by then."""
    reaper = Reaper()
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    try:
        for _attempt in range(10):
            process = Process(Command(("true",), {"PATH": os.defpath}, "/"))
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            reaper.watch(process, codes.put)
            process.kill()
            assert codes.get(timeout=10) in {0, -signal.SIGKILL}
    finally:
        reaper.close()
