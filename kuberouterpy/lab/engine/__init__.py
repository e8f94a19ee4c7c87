"""Engines: a real Linux kernel with IPVS for the lab, wherever we are.

An engine starts one guest and gives it a byte stream; everything else is the same for all of them. Reading order:

    frames    what goes over the stream        plan     what a guest is asked to do
    session   boot a guest and be its terminal  choose  which engine, and why
    uml, native, qemu   how each one starts     init    the first process inside

``native`` is the running kernel in namespaces of its own, ``uml`` is User-Mode Linux (a kernel as an ordinary program: no
root, no KVM, no network), ``qemu`` is a whole machine in software for what User-Mode Linux lacks.
"""

from __future__ import annotations

from kuberouterpy.lab.engine.choose import ENGINES, Choice, choose
from kuberouterpy.lab.engine.session import Terminal, boot

__all__ = ["ENGINES", "Choice", "Terminal", "boot", "choose"]
