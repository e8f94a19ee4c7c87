"""``kuberouterpy lab demo``: the main job shown on a real kernel, each step with a check that can fail.

``outside`` boots the lab and tells how that goes; ``inside`` is the story itself and runs in the guest. Every command that is
printed is a command that was run: what it said is what the check judged.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Final

from kuberouterpy.errors import LabError
from kuberouterpy.lab.demo.screen import Screen

_BEGAN: Final = "KUBEROUTERPY_DEMO_BEGAN"


def outside(*, nodes: int, families: str, engine: str) -> int:
    """Boot a lab and run the story in it; return 0 only if every step held."""
    from kuberouterpy.lab import assets
    from kuberouterpy.lab.engine import boot, choose
    from kuberouterpy.lab.engine.plan import GuestPlan
    from kuberouterpy.lab.options import LabOptions

    began = time.time()
    screen = Screen(began=began)
    choice = choose(engine)
    screen.head(f"kuberouterpy: {nodes} nodes on a real kernel")
    screen.lines([f"engine {choice.engine.name}: {choice.engine.version()} ({choice.reason})"])
    if os.environ.get(assets.VARIABLE):
        # Its last step deletes a namespace: without a controller manager that would never end.
        screen.lines([f"{assets.VARIABLE} is for lab run and lab shell; the demo takes the lab's own API server"])
    last = began

    def note(text: str) -> None:
        nonlocal last
        screen.held(text, time.time() - last)
        last = time.time()

    plan = GuestPlan(
        command=(sys.executable, "-m", "kuberouterpy.lab.demo"),
        directory=os.getcwd(),
        environment={**os.environ, "PATH": f"/usr/sbin:/usr/bin:{os.environ.get('PATH', '')}", _BEGAN: str(began)},
        engine=choice.engine.name,
        results="",
        lab=LabOptions(nodes=nodes, families=families),
    )
    try:
        return boot(choice.engine, plan, note=note)
    except LabError as error:
        screen.failed("the lab did not come up", str(error), time.time() - last)
        return 1


def inside() -> int:
    """Tell the story in a lab that stands; return 0 only if every step held."""
    from kuberouterpy.lab.demo.story import Story

    return Story(Screen(began=float(os.environ.get(_BEGAN, time.time())))).tell()
