"""Chains of rules, by ``iptables-save`` and one ``iptables-restore --noflush`` for each family and batch.

Promises: a chain is replaced as a whole, in one transaction with everything else of its table in the batch; a failing
chain leaves its old content and does not stop the others; chains and rules of others are never written. Both variants of
the programs (legacy, nft) do; the one found on PATH is used.

How a chain is recognised: by its prefix. How its rules are: by the id in each comment (see :mod:`.iptables_text`), since
the text never comes back as it was written. Therefore the driver remembers the objects it was told (:meth:`expect`) or has
written, and a listing gives back that very object where the ids agree in number and order. What the kernel printed for
them the first time is remembered, too, so that a rule altered by another hand under the same comment is drift. An
alteration made before that first listing goes unnoticed until the chain changes.

Source: iptables/iptables-restore.c (``--noflush``: a declared chain that exists is flushed); net/netfilter/x_tables.c.
"""

from __future__ import annotations

import errno as errnos
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from kuberouterpy.dataplane import Chain, ChainKey, Jump, JumpKey, Key, Object, ObjectKind, Op, Rule, Table, is_ours
from kuberouterpy.drivers import command
from kuberouterpy.drivers import iptables_text as texts
from kuberouterpy.drivers.iptables_text import Line, Saved
from kuberouterpy.errors import DriverError
from kuberouterpy.family import FAMILIES, Family

LOCK_WAIT_S: Final = 5
"""How long legacy waits for its lock; other writers hold it for milliseconds."""
OUT_OF_PLACE: Final = -1
"""Rank of a listed jump that is right but stands wrong or twice: a rank nobody wants, so that the plan moves it."""

Answer: TypeAlias = tuple[Op, DriverError | None]
_Answers: TypeAlias = dict[Key, DriverError | None]


class IptablesDriver:
    """Programs :class:`Chain` and :class:`Jump` of the families it is given."""

    name = "iptables"
    kinds: tuple[ObjectKind, ...] = (Chain, Jump)

    def __init__(self, families: Iterable[Family] = FAMILIES, *, variant: str = "") -> None:
        """``variant``: ``legacy`` or ``nft``; empty: whichever the plain names on PATH are."""
        self.families = tuple(families)
        self._infix = f"-{variant}-" if variant else "-"
        self._known: dict[Key, Chain | Jump] = {}
        self._printed: dict[Key, tuple[str, ...]] = {}
        """What the kernel printed for the rules of a known object when they were first seen."""
        self.foreign: Mapping[str, int] = {}
        """Rules of others by their chain, ``v4 nat POSTROUTING``, as last listed."""

    def expect(self, wanted: Iterable[Object]) -> None:
        """Tell what is wanted, so that a listing recognises it by its ids; to be called before the first listing."""
        self._known.update({value.key: value for value in wanted if isinstance(value, Chain | Jump)})

    def list(self) -> Mapping[Key, Object]:
        """Return chains with our prefixes, and jumps to them from chains that are not ours."""
        objects: dict[Key, Object] = {}
        foreign: dict[str, int] = {}
        for family in self.families:
            saved = self._save(family)
            for (table, name), rules in saved.items():
                if is_ours(name):
                    key = ChainKey(family, table, name)
                    objects[key] = self._read_chain(key, rules)
                    continue
                objects |= self._read_jumps(family, table, name, rules)
                if others := sum(not texts.jumps(rule) for rule in rules):
                    foreign[f"v{family:d} {table} {name}"] = others
        self.foreign = foreign
        return objects

    def apply(self, ops: Sequence[Op]) -> Iterator[Answer]:
        """Carry out ``ops``, one restore for each family unless something is rejected; the last word on a key counts."""
        answers: _Answers = {}
        for family in self._families_of(ops):
            last = {op.key: op for op in ops if getattr(op.key, "family", None) is family}
            answers |= self._apply_family(family, list(last.values()))
        for op in ops:
            yield op, answers[op.key]

    def _families_of(self, ops: Iterable[Op]) -> Sequence[Family]:
        found = {getattr(op.key, "family", None) for op in ops}
        return tuple(family for family in Family if family in found)

    def _program(self, name: str) -> str:
        return name.replace("-", self._infix)

    def _save(self, family: Family) -> Saved:
        return texts.parse(command.demand([self._program(family.save)]))

    # --- Listing ------------------------------------------------------------------------------------------------------

    def _read_chain(self, key: ChainKey, rules: Sequence[str]) -> Chain:
        known = self._known.get(key)
        if isinstance(known, Chain) and self._is_as_written(key, known.rules, rules):
            return known
        return Chain(key, tuple(map(texts.read_rule, rules)))

    def _is_as_written(self, key: Key, wanted: Collection[Rule], rules: Sequence[str]) -> bool:
        ids = [texts.id_of(text) for text in rules]
        if ids != [texts.wanted_id(rule) for rule in wanted]:
            return False
        printed = self._printed.get(key)
        if printed == tuple(rules):
            return True
        if printed is None or [texts.id_of(text) for text in printed] != ids:
            self._printed[key] = tuple(rules)
            return True
        return False

    def _read_jumps(self, family: Family, table: Table, parent: str, rules: Sequence[str]) -> dict[Key, Object]:
        found: dict[JumpKey, list[str]] = {}
        for text in rules:
            if chain := texts.jumps(text):
                found.setdefault(JumpKey(family, table, parent, chain), []).append(text)
        if not found:
            return {}
        layout = _Layout(rules, self._known_jumps(found))
        return {key: self._read_jump(key, copies, layout) for key, copies in found.items()}

    def _read_jump(self, key: JumpKey, copies: Sequence[str], layout: _Layout) -> Jump:
        known = self._known.get(key)
        if not isinstance(known, Jump):
            return Jump(key, texts.read_rule(copies[0]), first=layout.leads(key))
        if not self._is_as_written(key, (known.rule,), copies):
            return Jump(key, texts.read_rule(copies[0]), first=known.first, rank=OUT_OF_PLACE)
        if not layout.in_place(known):
            return Jump(key, known.rule, first=layout.leads(key), rank=OUT_OF_PLACE)
        return known

    def _known_jumps(self, keys: Iterable[JumpKey]) -> Sequence[Jump]:
        known = (self._known.get(key) for key in keys)
        return [jump for jump in known if isinstance(jump, Jump)]

    # --- Applying -----------------------------------------------------------------------------------------------------

    def _apply_family(self, family: Family, ops: Sequence[Op]) -> _Answers:
        answers: _Answers = {}
        accepted = []
        for op in ops:
            try:
                texts.check(op)
                accepted.append(op)
            except DriverError as error:
                answers[op.key] = error
        waiting: deque[Sequence[Op]] = deque([texts.in_order(accepted)])
        while waiting:
            batch = waiting.popleft()
            if batch:
                told, rest = self._attempt(family, batch)
                self._learn(batch, told)
                answers |= told
                waiting.extendleft(reversed(rest))
        return answers

    def _attempt(self, family: Family, batch: Sequence[Op]) -> tuple[_Answers, Sequence[Sequence[Op]]]:
        try:
            return self._restore(family, batch)
        except DriverError as error:
            # The program is missing or hung, or the listing failed: there is nothing more to try.
            return dict.fromkeys((op.key for op in batch), error), ()

    def _restore(self, family: Family, batch: Sequence[Op]) -> tuple[_Answers, Sequence[Sequence[Op]]]:
        """Return what is decided, and the batches still to be sent."""
        lines = list(self._compose(family, batch))
        if not lines:
            return dict.fromkeys((op.key for op in batch), None), ()
        text = "".join(f"{line.text}\n" for line in lines)
        program = self._program(family.restore)
        output = command.run([program, "--noflush", "-w", str(LOCK_WAIT_S)], text=text)
        if output.code == 0:
            return dict.fromkeys((op.key for op in batch), None), ()
        blame = texts.blame(output.stderr, lines)
        if blame.first < 0:
            number = texts.errno_of(output.stderr)
            return {op.key: command.failed(texts.attempt(op), output, errno=number) for op in batch}, ()
        start, _ = texts.table_around(lines, blame.first)
        answers: _Answers = {op.key: None for line in lines[:start] for op in line.ops}
        for n, (words, number) in blame.guilty.items():
            context = command.numbered(text, n + 1)
            for op in lines[n].ops:
                message = f"{texts.attempt(op)}: {words}: {lines[n].text}"
                answers[op.key] = command.CommandError(message, output, errno=number, context=context)
        rest = [op for op in batch if op.key not in answers]
        if blame.guilty:
            return answers, [rest]
        # The kernel refused the table as a whole and named no rule: find the one by halves.
        suspects = [op for op in rest if f"*{_table(op)}" == lines[start].text]
        others = [op for op in rest if f"*{_table(op)}" != lines[start].text]
        if len(suspects) == 1 or blame.first == start:
            number = texts.errno_of(output.stderr) or errnos.EINVAL
            context = command.numbered(text, blame.first + 1)
            for op in suspects:
                answers[op.key] = command.failed(texts.attempt(op), output, errno=number, context=context)
            return answers, [others]
        half = len(suspects) // 2
        return answers, [suspects[:half], suspects[half:], others]

    def _learn(self, batch: Iterable[Op], answers: _Answers) -> None:
        for op in batch:
            if answers.get(op.key, op) is None:
                self._printed.pop(op.key, None)
                if isinstance(op.value, Chain | Jump):
                    self._known[op.key] = op.value
                else:
                    self._known.pop(op.key, None)

    def _compose(self, family: Family, batch: Sequence[Op]) -> Iterator[Line]:
        """Yield restore text table by table; order matters: chains are declared before use and deleted when free."""
        saved = self._save(family) if any(isinstance(op.key, JumpKey) for op in batch) else {}
        for table in Table:
            ops = [op for op in batch if _table(op) is table]
            chains = [op for op in ops if isinstance(op.key, ChainKey)]
            jumps = list(self._compose_jumps([op for op in ops if isinstance(op.key, JumpKey)], table, saved))
            if not chains and not jumps:
                # Naming a table would load its module.
                continue
            yield Line(f"*{table.value}")
            for op in chains:
                # Declaring flushes; a chain to be deleted is declared too, so that it exists and calls nobody.
                yield Line(f":{_name(op)} - [0:0]", (op,))
            for op in chains:
                if isinstance(op.value, Chain):
                    yield from (Line(f"-A {_name(op)} {texts.write_rule(rule)}", (op,)) for rule in op.value.rules)
            yield from jumps
            yield from (Line(f"-X {_name(op)}", (op,)) for op in chains if op.value is None)
            yield Line("COMMIT")

    def _compose_jumps(self, ops: Sequence[Op], table: Table, saved: Saved) -> Iterator[Line]:
        by_parent: dict[str, dict[Key, Op]] = {}
        for op in ops:
            assert isinstance(op.key, JumpKey)
            by_parent.setdefault(op.key.parent, {})[op.key] = op
        for parent, touched in by_parent.items():
            yield from self._lay(parent, touched, saved.get((table, parent), []))

    def _lay(self, parent: str, touched: Mapping[Key, Op], rules: Sequence[str]) -> Iterator[Line]:
        """Yield the lines that put the jumps of one parent right; none where they stand as wanted.

        Those of our jumps that lead are taken out and set again together: their order is right in every case.
        """
        some = next(iter(touched))
        assert isinstance(some, JumpKey)
        copies: dict[Key, list[str]] = {}
        for text in rules:
            if chain := texts.jumps(text):
                copies.setdefault(JumpKey(some.family, some.table, parent, chain), []).append(text)
        known = {jump.key: jump for jump in self._known_jumps(key for key in copies if isinstance(key, JumpKey))}
        wanted = {key: jump for key, jump in known.items() if key not in touched}
        wanted |= {op.value.key: op.value for op in touched.values() if isinstance(op.value, Jump)}
        layout = _Layout(rules, wanted.values())
        for first in (True, False):
            group = sorted((jump for jump in wanted.values() if jump.first is first), key=_place)
            right = all(
                self._is_as_written(jump.key, (jump.rule,), copies.get(jump.key, ())) and layout.in_place(jump)
                for jump in group
            )
            if not right:
                yield from self._set(parent, group, copies, touched)
        for key, op in touched.items():
            if op.value is None:
                yield from (Line(f"-D {parent} {text}", (op,)) for text in copies.get(key, ()))

    def _set(
        self, parent: str, group: Sequence[Jump], copies: Mapping[Key, Sequence[str]], touched: Mapping[Key, Op]
    ) -> Iterator[Line]:
        for jump in group:
            ops = (touched[jump.key],) if jump.key in touched else tuple(touched.values())
            yield from (Line(f"-D {parent} {text}", ops) for text in copies.get(jump.key, ()))
        for n, jump in enumerate(group, 1):
            ops = (touched[jump.key],) if jump.key in touched else tuple(touched.values())
            rule = texts.write_rule(jump.rule)
            yield Line(f"-I {parent} {n} {rule}" if jump.first else f"-A {parent} {rule}", ops)


class _Layout:
    """Where our jumps stand among the rules of one parent."""

    def __init__(self, rules: Sequence[str], wanted: Iterable[Jump]) -> None:
        targets = [texts.jumps(text) for text in rules]
        foreign = [n for n, target in enumerate(targets) if not target]
        self._first_foreign = min(foreign, default=len(rules))
        self._last_foreign = max(foreign, default=-1)
        self._at = {target: n for n, target in reversed(list(enumerate(targets))) if target}
        self._misordered: set[JumpKey] = set()
        for first in (True, False):
            group = [jump for jump in wanted if jump.first is first and jump.key.chain in self._at]
            standing = sorted(group, key=lambda jump: self._at[jump.key.chain])
            right = sorted(group, key=_place)
            self._misordered |= {a.key for a, b in zip(standing, right, strict=True) if a.key != b.key}

    def leads(self, key: JumpKey) -> bool:
        """Whether the jump stands before every foreign rule."""
        return self._at[key.chain] < self._first_foreign

    def in_place(self, jump: Jump) -> bool:
        """Whether the jump stands where it is wanted."""
        at = self._at.get(jump.key.chain)
        if at is None or jump.key in self._misordered:
            return False
        return at < self._first_foreign if jump.first else at > self._last_foreign


def _place(jump: Jump) -> tuple[int, str]:
    return jump.rank, jump.key.chain


def _name(op: Op) -> str:
    assert isinstance(op.key, ChainKey)
    return op.key.name


def _table(op: Op) -> Table:
    assert isinstance(op.key, ChainKey | JumpKey)
    return op.key.table
