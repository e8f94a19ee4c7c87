"""Sets of addresses in the kernel, by the program ``ipset``: listed with ``save``, written with one ``restore`` a batch.

Promises: every operation of a batch is answered for itself; the sets of others are never named. Every set is made with
comment support, so that an entry says whom it is for::

    # ipset save
    create kube-router-svip hash:ip family inet hashsize 1024 maxelem 65536 comment bucketsize 12 initval 0x9b0cbcf5
    add kube-router-svip 10.96.0.10 comment "kube-system/kube-dns"
    create inet6:kube-router-svip hash:ip family inet6 hashsize 1024 maxelem 65536 comment bucketsize 12 initval 0x...

What a restore is not: a transaction. ``ipset`` gathers consecutive lines of one command and one set, sends them together,
and names the line that failed. Then (*seen*, ipset 7.17):

* the kernel refused line N: lines of the same gathering before N are in, later ones are not;
* the text of line N is wrong, or its set is missing: the whole gathering before N is lost, though earlier ones are in.

So after an error everything from the beginning of the last gathering is sent again without the failed line; adding and
deleting are idempotent with ``-exist``, which makes that safe.

``ipset`` resolves host names: a member that is no address would ask the DNS. Members are checked before they are sent.

Source: net/netfilter/ipset/ip_set_core.c: ip_set_create, ip_set_swap; ip_set_hash_gen.h: mtype_same_set, mtype_add.
"""

from __future__ import annotations

import errno as errnos
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from kuberouterpy.dataplane import Entry, EntryKey, Key, Object, ObjectKind, Op, Set, SetKey
from kuberouterpy.drivers import command
from kuberouterpy.errors import DriverError
from kuberouterpy.family import IPV4, IPV6
from kuberouterpy.names import hashed

COMMENT_LIMIT: Final = 255
"""Bytes (IPSET_MAX_COMMENT_SIZE)."""
TEMPORARY: Final = "kube-router-tmp-"
"""Prefix of the sets that live only while another is rebuilt; one left behind is listed, thus swept."""

_OURS: Final = re.compile(r"(?:inet6:)?(?:kube-router-|KUBE-SRC-|KUBE-DST-|TMP-[A-Z2-7]{16}$)")
"""Our names and kube-router's, whose temporary sets (TMP- and a hash) outlive a crash of it."""
_NAME: Final = re.compile(r"[\w:.-]{1,31}")
_TYPE: Final = re.compile(r"[a-z]+:[a-z,]+")
_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_MEMBER: Final = re.compile(rf"(?:{_OCTET}(?:\.{_OCTET}){{3}}|[0-9a-f:.]*:[0-9a-f:.]*)(?:/\d{{1,3}})?(?:,[\w:/.\-]+)*")
_FAILED: Final = re.compile(r"Error in line (\d+): (.*)")

_MISSING: Final = "set with the given name does not exist"
_FULL: Final = "Hash is full"
_ERRNOS: Final = (
    (_MISSING, errnos.ENOENT),
    (_FULL, errnos.ENOSPC),
    ("in use by a kernel component", errnos.EBUSY),
    ("set with the same name already exists", errnos.EEXIST),
    ("Operation not permitted", errnos.EPERM),
    ("Syntax error", errnos.EINVAL),
    ("CIDR parameter of the IP address is invalid", errnos.EINVAL),
)

Answer: TypeAlias = tuple[Op, DriverError | None]


class Header(NamedTuple):
    """What ``ipset`` says of a set itself."""

    type: str
    family: str
    max_elements: int
    timeout_s: int | None
    marks: bool
    """Has the extension skbinfo."""
    plain: bool
    """Has comment support and no further extension: exactly what we create."""


class _Line(NamedTuple):
    text: str
    op: Op
    gathering: tuple[str, str]
    """Command and set: consecutive lines that agree here are sent to the kernel together."""


class IpsetDriver:
    """Programs :class:`Set` and :class:`Entry` of both families."""

    name = "ipset"
    kinds: tuple[ObjectKind, ...] = (Set, Entry)

    def __init__(self, *, program: str = "ipset") -> None:
        self._program = program
        self._asked: dict[EntryKey, Entry] = {}
        """Entries whose comment had to be altered to be stored; a listing gives back what was asked for."""

    def list(self) -> Mapping[Key, Object]:
        """Return our sets and their entries, and kube-router's."""
        objects = dict(parse(command.demand([self._program, "save"])))
        for key, asked in self._asked.items():
            found = objects.get(key)
            if isinstance(found, Entry) and found == replace(asked, comment=clean(asked.comment)):
                objects[key] = asked
        return objects

    def apply(self, ops: Sequence[Op]) -> Iterator[Answer]:
        """Carry out ``ops`` in as few restores as possible: one, unless a set is rebuilt or a line fails."""
        for part in _parts(ops):
            yield from self._apply_part(part)

    def _apply_part(self, ops: Sequence[Op]) -> Iterator[Answer]:
        try:
            headers = self._headers() if any(isinstance(op.value, Set) for op in ops) else {}
        except DriverError as error:
            yield from ((op, error) for op in ops)
            return
        lines: list[_Line] = []
        for op in ops:
            try:
                check(op)
            except DriverError as error:
                yield op, error
                continue
            if isinstance(op.value, Set) and (header := headers.get(op.value.key.name)):
                if header == header_of(op.value):
                    yield op, None
                    continue
                yield from self._restore(lines)
                lines = []
                try:
                    self._rebuild(op, op.value, header)
                    yield op, None
                except DriverError as error:
                    yield op, error
            else:
                self._remember(op)
                lines.append(_line(op))
        yield from self._restore(lines)

    def _headers(self) -> dict[str, Header]:
        return dict(parse_headers(command.demand([self._program, "-terse", "list"])))

    def _remember(self, op: Op) -> None:
        if isinstance(op.value, Entry) and clean(op.value.comment) != op.value.comment:
            self._asked[op.value.key] = op.value
        elif isinstance(op.key, EntryKey):
            self._asked.pop(op.key, None)

    def _restore(self, lines: Sequence[_Line]) -> Iterator[Answer]:
        while lines:
            text = "".join(f"{line.text}\n" for line in lines)
            try:
                output = command.run([self._program, "-exist", "restore"], text=text)
            except DriverError as error:
                yield from ((line.op, error) for line in lines)
                return
            if output.code == 0:
                yield from ((line.op, None) for line in lines)
                return
            found = _FAILED.search(output.stderr)
            if found is None:
                refused = command.failed(f"restore {len(lines)} lines of ipset", output, errno=_errno(output.stderr))
                yield from ((line.op, refused) for line in lines)
                return
            at, words = int(found[1]) - 1, found[2]
            again = _first_unsure(lines, at)
            yield from ((line.op, None) for line in lines[:again])
            errors = _condemned(lines, at, words, output=output, text=text)
            yield from ((lines[n].op, error) for n, error in errors.items())
            lines = [line for n, line in enumerate(lines[again:], again) if n not in errors]

    def _rebuild(self, op: Op, value: Set, header: Header) -> None:
        """Give an existing set other properties; its entries stay, except where its type changes."""
        name, temporary = value.key.name, hashed(TEMPORARY, value.key.name, length=15)
        if (header.type, header.family) == (value.type, value.family.ipset):
            entries = (entry for _, entry in parse(self._saved(name), everyone=True) if isinstance(entry, Entry))
            lines = [
                *(_add(temporary, entry) for entry in entries),
                f"swap {temporary} {name}",
                f"destroy {temporary}",
            ]
        else:
            # The set goes before its successor takes the name: possible only while no rule matches on it.
            lines = [f"destroy {name}", f"rename {temporary} {name}"]
        text = "\n".join((f"destroy {temporary}", _create(temporary, value), *lines, ""))
        output = command.run([self._program, "-exist", "restore"], text=text)
        if output.code == 0:
            return
        command.run([self._program, "-exist", "destroy", temporary])
        found = _FAILED.search(output.stderr)
        context = command.numbered(text, int(found[1])) if found else ""
        raise command.failed(_attempt(op), output, errno=_errno(output.stderr), context=context)

    def _saved(self, name: str) -> str:
        return command.demand([self._program, "save", name])


# --- Reading ----------------------------------------------------------------------------------------------------------


def parse(text: str, *, everyone: bool = False) -> Iterator[tuple[Key, Object]]:
    """Yield the sets and entries of ``ipset save``: ours, or those of ``everyone``.

    A set that is not as we create them (without comments, with counters) has ``max_elements`` 0, which nobody wants:
    the difference makes the plan update it, and the update rebuilds it.
    """
    skipped = ""
    for line in text.splitlines():
        verb, name, rest = line.split(" ", 2)
        if name == skipped:
            continue
        if verb == "add":
            entry = _parse_entry(name, rest)
            yield entry.key, entry
        elif everyone or _OURS.match(name):
            type_, _, words = rest.partition(" ")
            header = _parse_header(type_, words)
            family = IPV6 if header.family == IPV6.ipset else IPV4
            most = header.max_elements if header.plain else 0
            value = Set(SetKey(name), family, header.type, most, header.timeout_s, header.marks)
            yield value.key, value
        else:
            skipped = name


def parse_headers(text: str) -> Iterator[tuple[str, Header]]:
    """Yield name and header of every set in ``ipset -terse list``."""
    name = type_ = ""
    for line in text.splitlines():
        label, _, rest = line.partition(": ")
        match label:
            case "Name":
                name = rest
            case "Type":
                type_ = rest
            case "Header":
                yield name, _parse_header(type_, rest)


def header_of(value: Set) -> Header:
    """Return the header a set has when it is as wanted."""
    return Header(value.type, value.family.ipset, value.max_elements, value.timeout_s, value.marks, plain=True)


def _parse_header(type_: str, text: str) -> Header:
    words = text.split()
    following = dict(pairwise(words))
    timeout = following.get("timeout")
    extensions = set(words) & {"comment", "counters", "skbinfo", "forceadd", "netmask", "bitmask", "markmask"}
    return Header(
        type_,
        following.get("family", IPV4.ipset),
        int(following.get("maxelem", "0")),
        None if timeout is None else int(timeout),
        marks="skbinfo" in extensions,
        plain=extensions - {"skbinfo"} == {"comment"},
    )


def _parse_entry(name: str, rest: str) -> Entry:
    member, _, options = rest.partition(" ")
    member = ",".join(map(_canonical, member.split(","))) if "." in member and name.startswith("inet6:") else member
    words, _, rest = options.partition('comment "')
    comment, _, more = rest.rpartition('"')
    # In either part: skbmark 0x40007530, with /0x... behind it where the mask is not all ones.
    _, _, mark = (words + more).partition("skbmark ")
    return Entry(EntryKey(name, member), comment, "nomatch" in words, int(mark.split("/")[0] or "0", 16))


# --- Writing ----------------------------------------------------------------------------------------------------------


def _canonical(part: str) -> str:
    """Return one part of a member as keys spell it: the C library prints ``::1.2.3.4`` where Python prints ``::102:304``."""
    address, slash, length = part.partition("/")
    try:
        return f"{IPv6Address(address)}{slash}{length}"
    except ValueError:
        return part  # ``tcp:80``


def check(op: Op) -> None:
    """Refuse what would not reach the kernel as one line of the intended meaning. Errors: DriverError (EINVAL)."""
    match op.key:
        case SetKey(name=name):
            good = _is_name(name)
        case EntryKey(set=name, member=member):
            good = _is_name(name) and _MEMBER.fullmatch(member) is not None
        case _:
            good = False
    if isinstance(op.value, Set):
        good = good and bool(_TYPE.fullmatch(op.value.type))
    if not good:
        raise DriverError(f"{_attempt(op)}: not the text of a set or member", errnos.EINVAL)


@lru_cache(maxsize=1024)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def clean(comment: str) -> str:
    """Return ``comment`` as a set can hold it: one line, no double quotes, at most 255 bytes."""
    if comment.isascii() and comment.isprintable() and '"' not in comment and len(comment) <= COMMENT_LIMIT:
        return comment
    text = "".join(char if char.isprintable() else " " for char in comment.replace('"', "'"))
    return text.encode()[:COMMENT_LIMIT].decode(errors="ignore")


def _line(op: Op) -> _Line:
    match op.key, op.value:
        case SetKey(name=name), Set() as value:
            return _Line(_create(name, value), op, ("create", name))
        case SetKey(name=name), _:
            return _Line(f"destroy {name}", op, ("destroy", name))
        case EntryKey(set=name), Entry() as value:
            return _Line(_add(name, value), op, ("add", name))
        case EntryKey(set=name, member=member), _:
            return _Line(f"del {name} {member}", op, ("del", name))
        case _:
            raise AssertionError(f"ipset cannot apply {op}")


def _create(name: str, value: Set) -> str:
    timeout = "" if value.timeout_s is None else f" timeout {value.timeout_s}"
    marks = " skbinfo" if value.marks else ""
    return (
        f"create {name} {value.type} family {value.family.ipset} maxelem {value.max_elements} comment{timeout}{marks}"
    )


def _add(name: str, value: Entry) -> str:
    nomatch = " nomatch" if value.nomatch else ""
    comment = f' comment "{clean(value.comment)}"' if value.comment else ""
    mark = f" skbmark {value.mark:#x}" if value.mark else ""
    return f"add {name} {value.key.member}{nomatch}{comment}{mark}"


# --- Errors -----------------------------------------------------------------------------------------------------------


def _parts(ops: Sequence[Op]) -> Iterator[list[Op]]:
    """Cut ``ops`` so that no set is created, changed or destroyed twice in one part: its header is read once for each."""
    part: list[Op] = []
    seen: set[Key] = set()
    for op in ops:
        if isinstance(op.key, SetKey):
            if op.key in seen:
                yield part
                part, seen = [], set()
            seen.add(op.key)
        part.append(op)
    if part:
        yield part


def _first_unsure(lines: Sequence[_Line], at: int) -> int:
    """Return the index of the first line that may not be in when line ``at`` failed: see the module's story."""
    first = at
    while first and lines[first - 1].gathering == lines[at].gathering:
        first -= 1
    if first == at and at:
        first = at - 1
        while first and lines[first - 1].gathering == lines[at - 1].gathering:
            first -= 1
    return first


def _condemned(
    lines: Sequence[_Line], at: int, words: str, *, output: command.Output, text: str
) -> dict[int, DriverError | None]:
    """Return the answers that follow from the failure of line ``at``, by index.

    A missing set, and a full one, answer for all further lines that must fail alike: one restore for each of 100,000
    lines would take minutes. To delete from a missing set is success.
    """
    verb, name = lines[at].gathering
    context = command.numbered(text, at + 1)
    number = _errno(words)

    def error(line: _Line) -> DriverError | None:
        if _MISSING in words and line.gathering[0] == "del":
            return None
        return command.CommandError(f"{_attempt(line.op)}: {words}", output, errno=number, context=context)

    answers = {at: error(lines[at])}
    until = {_MISSING: {"create"}, _FULL: {"create", "destroy", "del"}}
    ends = next((ends for pattern, ends in until.items() if pattern in words), None)
    if ends is None or verb not in {"add", "del"}:
        return answers
    for n, line in enumerate(lines[at + 1 :], at + 1):
        if line.gathering[1] == name:
            if line.gathering[0] in ends:
                break
            if line.gathering[0] in {"add", "del"}:
                answers[n] = error(line)
    return answers


def _errno(words: str) -> int:
    return next((number for pattern, number in _ERRNOS if pattern in words), 0)


def _attempt(op: Op) -> str:
    match op.key:
        case EntryKey(set=name, member=member):
            return f"{op.verb} entry {member} of set {name}"
        case SetKey(name=name):
            return f"{op.verb} set {name}"
        case _:
            return f"{op.verb} {op.key}"
