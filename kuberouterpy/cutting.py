"""``--netpol-cut-flows``: after a change of the firewall's chains and sets, connections that are denied now end.

Judged by the policies themselves (``firewall.model``), on the loop's thread, right behind the rules: a connection that is
forgotten meets the new ones with its next packet. Costs one dump of conntrack for each batch that changed the firewall.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from firewall import CONTROLLER
from firewall.flows import must_end
from firewall.model import Flow
from kuberouterpy.dataplane import Op
from kuberouterpy.drivers.tracked import ConnectionTable
from kuberouterpy.errors import DriverError
from kuberouterpy.log import event as log_event
from kuberouterpy.loop import Loop

_log: Final = logging.getLogger("kuberouterpy.cutting")


class Cutter:
    """Ends connections; one that cannot be ended now is tried again with the next change."""

    def __init__(self, table: ConnectionTable) -> None:
        self._table = table

    def review(self, loop: Loop, ops: Sequence[Op]) -> int:
        """End what is denied now, where ``ops`` are the firewall's; return how many connections that were."""
        if not any(CONTROLLER.claims(op.key) for op in ops):
            return 0
        try:
            found = [
                one
                for one in self._table.list()
                if must_end(Flow(one.source, one.answerer, one.protocol.value, one.port), loop.store, loop.host)
            ]
            cut = self._table.forget(found)
        except DriverError as error:
            log_event(_log, logging.WARNING, "cut-failed", error=error)
            return 0
        if cut:
            log_event(_log, logging.INFO, "flows-cut", ops=cut, reason="denied by policies now")
        return cut
