"""Run scenario files: cluster YAML in, the operations on the dataplane out.

A file reads from top to bottom::

    # A terminating endpoint drains, then goes.
    -- host node-1 10.0.0.1/24 fd00::1/64 pods 10.1.4.0/24,fd00:1:4::/64 --
    -- run proxy --
    -- apply --
    kind: Service ...
    -- ops --
    create virtual tcp 10.96.0.10:80 rr

``apply`` takes Kubernetes objects as the API sends them, ``delete`` the same, ``settle`` applies and shows nothing, ``ops``
is what the step before it did, driver by driver in the order it was done. Everything runs through the real decoder, store,
controllers, tracker and loop, over the fake kernel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import yaml
from msgspec import Struct

from kuberouterpy.cluster import KUBERNETES_KINDS, BestPath, Delete, Event, Kind, Link, Replace, Upsert
from kuberouterpy.config import Config
from kuberouterpy.controller import Controller
from kuberouterpy.drivers import fake
from kuberouterpy.loop import Loop
from kuberouterpy.programmed import Programmed
from kuberouterpy.sources.decode import decode
from kuberouterpy.text import lines, op_line

_HEADING = re.compile(r"^-- (\w+)(?: (.*?))? --$")
_KINDS: dict[str, Kind] = {kind.__name__: kind for kind in KUBERNETES_KINDS}


class Section(Struct):
    """One part of a file."""

    word: str
    rest: str
    text: str


class World:
    """An agent over a fake kernel, driven by events."""

    def __init__(self, config: Config, controllers: tuple[Controller, ...], links: tuple[Link, ...] = ()) -> None:
        self.node = config.node_name
        self.drivers = fake.kernel()
        self.loop = Loop(
            config=config,
            controllers=controllers,
            drivers=tuple(Programmed(driver, period_s=1e9) for driver in self.drivers),
            expected=(*KUBERNETES_KINDS, Link),
        )
        self.now = 0.0
        self._seen = [0 for _ in self.drivers]
        for kind in KUBERNETES_KINDS:
            self.loop.put(Replace(kind, ()))
        self.loop.put(Replace(Link, links))
        self.loop.put(Replace(BestPath, ()))

    def events(self, verb: str, text: str) -> Iterator[Event]:
        """Yield the events that applying or deleting YAML would be."""
        for one in yaml.safe_load_all(text):
            decoded = decode(_KINDS[one["kind"]], json.dumps(one).encode(), node_name=self.node)
            record = decoded.record
            assert record is not None, f"{one['kind']} does not decode: {decoded}"
            yield Upsert(record) if verb == "apply" else Delete(type(record), record.ref)

    def step(self, events: Iterator[Event] | tuple[Event, ...] = ()) -> list[str]:
        """Take events in; return what was done, in order."""
        for event in events:
            self.loop.put(event)
        self.now += 1.0
        self.loop.step(self.now)
        return self._done()

    def _done(self) -> list[str]:
        done: list[str] = []
        for index, driver in enumerate(self.drivers):
            fresh = driver.log[self._seen[index] :]
            self._seen[index] = len(driver.log)
            done += [op_line(op) for op in fresh]
        return done

    def stands(self) -> list[str]:
        """Return everything the fake kernel holds, as lines."""
        held = {value.key: value for driver in self.drivers for value in driver.list().values()}
        return lines((value, None) for value in held.values())


def sections(path: Path) -> list[Section]:
    """Return the parts of a file; the comment before the first heading is its sentence."""
    found: list[Section] = []
    for row in path.read_text().splitlines():
        heading = _HEADING.match(row)
        if heading:
            found.append(Section(heading[1], heading[2] or "", ""))
        elif found:
            found[-1].text += row + "\n"
    return found


def world_of(parts: list[Section]) -> World:
    """Return the world a file's head describes."""
    settings: dict[str, object] = {"enable_ipv6": True}
    node, controllers, links = "node-1", ("proxy",), [Link("eth0", 2, mtu=1500, up=True)]
    for part in parts:
        match part.word:
            case "host":
                node, *rest = part.rest.split()
                links = [Link("eth0", 2, mtu=1500, up=True, addresses=tuple(word for word in rest if "/" in word))]
            case "run":
                controllers = tuple(part.rest.split())
            case "config":
                settings |= yaml.safe_load(part.text)
    chosen: tuple[Controller, ...] = tuple(import_module(name).CONTROLLER for name in controllers)
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return World(Config(node_name=node, **tuples), chosen, tuple(links))


def play(path: Path) -> tuple[str, World]:
    """Return the file with its ``ops`` as they really came out, and the world at the end."""
    parts = sections(path)
    world = world_of(parts)
    done: list[str] = []
    head = path.read_text().split("-- ", 1)[0]
    out = [head]
    for part in parts:
        heading = f"-- {part.word} {part.rest}".rstrip() + " --\n"
        text = part.text
        match part.word:
            case "apply" | "delete":
                done = world.step(world.events(part.word, part.text))
            case "ops":
                text = "".join(f"{row}\n" for row in done)
        out.append(heading + text)
    return "".join(out), world


def squashed(path: Path, *, backwards: bool = False) -> World:
    """Return the world after all events of a file came at once, each object's events kept in their own order."""
    parts = [part for part in sections(path) if part.word in {"apply", "delete"}]
    world = world_of(sections(path))
    by_object: dict[object, list[Event]] = {}
    for part in parts:
        for event in world.events(part.word, part.text):
            identity = (type(event.record), event.record.ref) if isinstance(event, Upsert) else (event[0], event[1])
            by_object.setdefault(identity, []).append(event)
    groups = list(by_object.values())
    for group in reversed(groups) if backwards else groups:
        world.step(tuple(group)) if backwards else [world.loop.put(event) for event in group]
    world.step()
    return world
