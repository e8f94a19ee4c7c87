"""The text iptables reads and prints, as pure functions: parse ``iptables-save``, write ``iptables-restore``, find the culprit.

iptables does not round-trip text: ``-s 10.0.0.1`` comes back as ``-s 10.0.0.1/32``, in another place of the line, with
matches nobody wrote. So every rule of ours carries its id in a comment, and is recognised by it::

    # iptables-save
    *filter
    :INPUT ACCEPT [0:0]
    :KUBE-ROUTER-INPUT - [0:0]
    -A INPUT -m comment --comment "kr:7XQ2M5KD to our chain" -j KUBE-ROUTER-INPUT
    -A KUBE-ROUTER-INPUT -d 10.96.0.10/32 -m comment --comment "kr:ABCD2345 default/web" -j RETURN
    COMMIT

Errors come in four shapes (*seen*, iptables 1.8.9); ``-restore`` commits table by table, each at once or not at all::

    legacy, nft   Error occurred at line: 4            the line; the reason stands above
    legacy        iptables-restore: line 3 failed      the line; or that of COMMIT, when only the kernel refused
    nft           Error occurred at line: 9            the line of COMMIT, where a chain that is jumped to is missing
    nft           line 3: CHAIN_DEL failed (Device or resource busy): chain X       the line; there may be several
"""

from __future__ import annotations

import errno as errnos
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

from kuberouterpy.dataplane import Chain, ChainKey, JumpKey, Op, Rule, Table, is_ours
from kuberouterpy.errors import DriverError

COMMENT_LIMIT: Final = 120
"""Bytes of a whole comment. xt_comment takes 255, but a native nftables comment 128, and translation must not fail."""

Saved = dict[tuple[Table, str], list[str]]
"""Rules by table and chain, in order, each without its ``-A CHAIN``."""

_TABLES: Final = {table.value: table for table in Table}
_ID: Final = re.compile(r'--comment "?kr:([A-Z2-7]{8})(?=[ "]|$)')
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_PLAIN: Final = re.compile(r"[\w./:,!+=@%^*-]+", re.ASCII)
_NAME: Final = re.compile(r"[\w.-]+", re.ASCII)
_LINE: Final = re.compile(r"Error occurred at line: (\d+)|line (\d+) failed|^line (\d+): ", re.MULTILINE)
_NO_CHAIN: Final = re.compile(r"Chain '([^']+)' does not exist|Couldn't load target `([^']+)'")
_PROGRAM: Final = re.compile(r"^\S+ v[\d.]+ \(\w+\): ")
_NO_SET: Final = re.compile(r"Set (\S+) doesn't exist")
_ERRNOS: Final = (
    ("Device or resource busy", errnos.EBUSY),
    ("doesn't exist", errnos.ENOENT),
    ("does not exist", errnos.ENOENT),
    ("No chain/target/match", errnos.ENOENT),
    ("Couldn't load", errnos.ENOENT),
    ("does a matching rule exist", errnos.ENOENT),
    ("holding the xtables lock", errnos.EAGAIN),
    ("Resource temporarily unavailable", errnos.EAGAIN),
    ("Permission denied", errnos.EPERM),
    ("Operation not permitted", errnos.EPERM),
    ("Invalid argument", errnos.EINVAL),
    ("invalid", errnos.EINVAL),
    ("unknown option", errnos.EINVAL),
    ("Bad argument", errnos.EINVAL),
)


# --- Reading ----------------------------------------------------------------------------------------------------------


def parse(text: str) -> Saved:
    """Return every chain of the tables we use, foreign ones too, of ``iptables-save``."""
    saved: Saved = {}
    table: Table | None = None
    for line in text.splitlines():
        if line.startswith("*"):
            table = _TABLES.get(line[1:])
        elif table is not None and line.startswith(":"):
            saved[table, line[1 : line.index(" ")]] = []
        elif table is not None and line.startswith("-A "):
            _, chain, rest = f"{line} ".split(" ", 2)
            saved.setdefault((table, chain), []).append(rest.strip())
    return saved


def parse_policies(text: str) -> dict[tuple[Table, str], str]:
    """Return the policy, ``ACCEPT`` or ``DROP``, of every built-in chain in ``iptables-save``."""
    found: dict[tuple[Table, str], str] = {}
    table: Table | None = None
    for line in text.splitlines():
        if line.startswith("*"):
            table = _TABLES.get(line[1:])
        elif table is not None and line.startswith(":"):
            name, word = line[1:].split(" ", 2)[:2]
            if word != "-":
                found[table, name] = word
    return found


def id_of(text: str) -> str:
    """Return the id in a saved rule's comment, or nothing."""
    found = _ID.search(text)
    return found[1] if found else ""


@lru_cache(maxsize=1 << 16)
def wanted_id(rule: Rule) -> str:
    """Return ``rule.id``, without hashing the same rule at every listing."""
    return rule.id


def jumps(text: str) -> str:
    """Return the chain of ours that a saved rule jumps to, or nothing."""
    if " KUBE-" not in f" {text}":
        return ""
    words = tokens(text)
    after = next((after for word, after in pairwise(words) if word in {"-j", "-g"}), "")
    return after if is_ours(after) else ""


def read_rule(text: str) -> Rule:
    """Return a saved rule in its own words; its comment, without our id, is the reason."""
    words = tokens(text)
    reason = ""
    if "--comment" in words:
        at = words.index("--comment")
        reason = re.sub(r"^kr:[A-Z2-7]{8} ?", "", words[at + 1])
        first = at - 2 if words[max(0, at - 2) : at] == ["-m", "comment"] else at
        del words[first : at + 2]
    at = next((n for n, word in enumerate(words) if word in {"-j", "-g"}), len(words))
    return Rule(tuple(words[:at]), tuple(words[at + 1 :]) or ("",), reason)


def tokens(text: str) -> list[str]:
    """Return the words of a saved rule, without quotes."""
    return [re.sub(r"\\(.)", r"\1", found[1]) if found[1] is not None else found[2] for found in _QUOTED.finditer(text)]


# --- Writing ----------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line of restore text, and the operations that fail with it."""

    text: str
    ops: tuple[Op, ...] = ()


def comment(rule: Rule) -> str:
    """Return the comment a rule is written with: id, then as much of its reason as goes."""
    reason = "".join(char if char.isprintable() and char not in "\"'\\" else " " for char in rule.reason)
    text = f"kr:{wanted_id(rule)} {reason}".rstrip()
    return text.encode()[:COMMENT_LIMIT].decode(errors="ignore").rstrip()


@lru_cache(maxsize=1 << 16)
def write_rule(rule: Rule) -> str:
    """Return a rule as restore takes it after ``-A CHAIN``. Errors: DriverError where a word holds a line break."""
    words = ("-m", "comment", "--comment", comment(rule), *rule.match, "-j", *rule.target)
    if any("\n" in word or "\r" in word or "\0" in word for word in words):
        raise DriverError(f"write rule {rule.id}: a word holds a line break", errnos.EINVAL)
    return " ".join(map(_quoted, words))


def check(op: Op) -> None:
    """Refuse to flush or delete what is not ours, whatever is asked. Errors: DriverError."""
    match op.key:
        case ChainKey(name=name):
            good = is_ours(name)
        case JumpKey(parent=parent, chain=name):
            good = is_ours(name) and not is_ours(parent) and bool(_NAME.fullmatch(parent))
        case _:
            good, name = False, ""
    if not good:
        raise DriverError(f"{attempt(op)}: not a chain of ours", errnos.EPERM)
    if not _NAME.fullmatch(name):
        raise DriverError(f"{attempt(op)}: not the name of a chain", errnos.EINVAL)
    if isinstance(op.value, Chain):
        for rule in op.value.rules:
            write_rule(rule)


def in_order(ops: Iterable[Op]) -> list[Op]:
    """Return operations so that every beginning of them can stand alone: targets before callers, deletions last."""
    by_key = {op.key: op for op in ops}
    found: dict[object, Op] = {}

    def visit(op: Op) -> None:
        if op.key in found:
            return
        found[op.key] = op
        if isinstance(op.value, Chain):
            key = op.value.key
            for rule in op.value.rules:
                target = by_key.get(ChainKey(key.family, key.table, rule.jumps))
                if target and target.value is not None:
                    visit(target)
            # After its targets: a chain of a loop stands somewhere, its own place is the last.
            found[op.key] = found.pop(op.key)

    ranks: dict[tuple[type, bool], int] = {
        (ChainKey, True): 0,
        (JumpKey, True): 1,
        (JumpKey, False): 2,
        (ChainKey, False): 3,
    }
    for op in sorted(by_key.values(), key=lambda op: ranks[type(op.key), op.value is not None]):
        visit(op)
    return list(found.values())


def attempt(op: Op) -> str:
    """Return what an operation tries, for error texts."""
    match op.key:
        case ChainKey(family=family, table=table, name=name):
            return f"{op.verb} chain {name} in {table} of ipv{family.value}"
        case JumpKey(family=family, table=table, parent=parent, chain=name):
            return f"{op.verb} jump from {parent} to {name} in {table} of ipv{family.value}"
        case _:
            return f"{op.verb} {op.key}"


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# --- Errors -----------------------------------------------------------------------------------------------------------


class Blame(NamedTuple):
    """Who is at fault for a rejected restore."""

    guilty: dict[int, tuple[str, int]]
    """By index of a line: words and errno. All operations of that line failed."""
    first: int
    """Index of the earliest line named: tables committed before it are done; -1: no line was named."""


def blame(stderr: str, lines: Sequence[Line]) -> Blame:
    """Return the lines a rejected restore is to be blamed on; none where the kernel only refused a table as a whole."""
    named = list(_named(stderr, len(lines)))
    guilty: dict[int, tuple[str, int]] = {}
    for at, words in named:
        start, end = table_around(lines, at)
        for n in [n for n in _alike(lines, words) if start <= n < end] or [at]:
            if lines[n].ops:
                guilty[n] = (words, errno_of(words) or _guess(lines[n].text))
    return Blame(guilty, min((at for at, _ in named), default=-1))


def errno_of(words: str) -> int:
    """Return the errno that an error's words mean, 0 for none."""
    return next((number for pattern, number in _ERRNOS if pattern in words), 0)


def _named(stderr: str, count: int) -> Iterator[tuple[int, str]]:
    reason = ""
    for line in stderr.splitlines():
        text = _PROGRAM.sub("", line.strip())
        found = _LINE.search(text)
        if found is None:
            reason = text if text and not text.startswith(("#", "Try ")) else reason
            continue
        at = int(found[1] or found[2] or found[3]) - 1
        if 0 <= at < count:
            yield at, (reason or text) if found[1] else text


def table_around(lines: Sequence[Line], at: int) -> tuple[int, int]:
    """Return the first index of the table that line ``at`` belongs to, and the one after its last."""
    start = max(n for n in range(at + 1) if lines[n].text.startswith("*"))
    end = next(n for n in range(at, len(lines)) if lines[n].text == "COMMIT")
    return start, end + 1


def _alike(lines: Sequence[Line], words: str) -> Iterator[int]:
    """Yield every line that must fail for the same missing set or chain: one attempt answers for all."""
    if found := _NO_SET.search(words):
        sought = re.compile(rf"--(?:match|add|del)-set {re.escape(found[1])}(?: |$)")
    elif found := _NO_CHAIN.search(words):
        sought = re.compile(rf" -[jg] {re.escape(found[1] or found[2])}(?: |$)")
    else:
        return
    yield from (n for n, line in enumerate(lines) if sought.search(line.text))


def _guess(text: str) -> int:
    """Legacy says "line 3 failed" and no more; for some lines there is one reason only."""
    return {"-X": errnos.EBUSY, "-D": errnos.ENOENT}.get(text[:2], errnos.EINVAL)
