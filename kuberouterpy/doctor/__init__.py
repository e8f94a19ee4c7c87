"""What on this host keeps the agent from working, with the mend: checks over readings.

:mod:`.readings` is what is known of a host, one frozen value; :mod:`.gather` reads it from the kernel; :mod:`.checks` are small
pure functions from it to findings, in a table. A new check is a function and a line in :data:`checks.CHECKS`, with a test that
breaks what it looks at.
"""

from __future__ import annotations

from kuberouterpy.doctor.checks import CHECKS, Finding, Grade, diagnose
from kuberouterpy.doctor.readings import Agent, Listener, Readings, Rules

__all__ = ["CHECKS", "Agent", "Finding", "Grade", "Listener", "Readings", "Rules", "diagnose"]
