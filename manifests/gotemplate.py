"""The small part of Go's template language that the chart uses, so that plain manifests come from the chart without helm.

A template that needs more is an error here, never a silent difference; a test compares with the real ``helm`` where it is
installed. Actions: ``if``, ``range``, ``end``; pipelines of fields, variables, texts and the functions below.
Source: pkg.go.dev/text/template, and helm's documentation of its functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

import yaml

Value: TypeAlias = object
Scope: TypeAlias = Mapping[str, Value]

_ACTION: Final = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)
_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s|]+|\|')


class TemplateError(ValueError):
    """A template holds what is not understood here."""


def render(template: str, values: Value) -> str:
    """Return the template's text with ``values`` as the dot. Errors: TemplateError."""
    tokens = list(_tokens(template))
    text, rest = _block(tokens, 0, {"": values})
    if rest != len(tokens):
        raise TemplateError("an end without a beginning")
    return text


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    """Yield ("text", TEXT) and ("action", WORDS), white space trimmed where an action says so."""
    at, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        yield "text", text.rstrip() if match[1] else text
        yield "action", match[2]
        at, trim = match.end(), bool(match[3])
    yield "text", template[at:].lstrip() if trim else template[at:]


def _block(tokens: list[tuple[str, str]], at: int, scope: Scope) -> tuple[str, int]:
    """Return the text up to the ``end`` of this block, and the place of that."""
    out: list[str] = []
    while at < len(tokens):
        kind, text = tokens[at]
        word, _, rest = text.partition(" ")
        if kind == "text":
            out.append(text)
        elif word == "end":
            return "".join(out), at
        elif word == "if":
            if _pipeline(rest, scope):
                out.append(_block(tokens, at + 1, scope)[0])
            at = _end(tokens, at)
        elif word == "range":
            out.extend(_range(tokens, at, scope))
            at = _end(tokens, at)
        else:
            out.append(_shown(_pipeline(text, scope)))
        at += 1
    return "".join(out), at


def _end(tokens: list[tuple[str, str]], at: int) -> int:
    """Return the place of the ``end`` of the block that begins at ``at``."""
    depth = 0
    for place, (kind, text) in enumerate(tokens[at:], at):
        word = text.partition(" ")[0] if kind == "action" else ""
        depth += (word in {"if", "range"}) - (word == "end")
        if depth == 0:
            return place
    raise TemplateError(f"no end of {tokens[at][1]!r}")


def _range(tokens: list[tuple[str, str]], at: int, scope: Scope) -> Iterator[str]:
    names, _, source = tokens[at][1].removeprefix("range ").partition(":=")
    words = [name.strip() for name in names.split(",")]
    found = _pipeline(source.strip(), scope)
    # As Go: a map in the order of its keys.
    pairs = sorted(found.items()) if isinstance(found, dict) else enumerate(found if isinstance(found, list) else ())
    for key, value in pairs:
        bound = dict(zip(words, (key, value) if len(words) > 1 else (value,), strict=True))
        yield _block(tokens, at + 1, {**scope, **bound})[0]


def _pipeline(text: str, scope: Scope) -> Value:
    commands: list[list[str]] = [[]]
    for word in _WORD.findall(text):
        if word == "|":
            commands.append([])
        else:
            commands[-1].append(word)
    value: Value = None
    for number, command in enumerate(commands):
        value = _command(command, scope, [value] if number else [])
    return value


def _command(words: list[str], scope: Scope, piped: list[Value]) -> Value:
    if not words:
        raise TemplateError("an empty action")
    if words[0] in _FUNCTIONS:
        return _FUNCTIONS[words[0]](*(_operand(word, scope) for word in words[1:]), *piped)
    if len(words) > 1 or piped:
        raise TemplateError(f"no such function: {words[0]}")
    return _operand(words[0], scope)


def _operand(word: str, scope: Scope) -> Value:
    if word.startswith('"'):
        return json.loads(word)
    if word.isdigit():
        return int(word)
    if word.startswith("$") and word in scope:
        return scope[word]
    if not word.startswith("."):
        raise TemplateError(f"not understood: {word}")
    value = scope[""]
    for name in word.split(".")[1:]:
        if not isinstance(value, dict) or name not in value:
            raise TemplateError(f"no value {word}")
        value = value[name]
    return value


def _shown(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int():
            return str(value)
    raise TemplateError(f"cannot be written into a template: {value!r}")


def _either(*values: Value) -> Value:
    return next((value for value in values if value), values[-1])


def _to_yaml(value: Value) -> str:
    return yaml.safe_dump(value, default_flow_style=False, sort_keys=True).rstrip("\n")


def _nindent(count: Value, text: Value) -> str:
    assert isinstance(count, int)
    assert isinstance(text, str)
    return "\n" + "\n".join(" " * count + line for line in text.splitlines())


_FUNCTIONS: Final[dict[str, Callable[..., Value]]] = {
    "or": _either,
    "default": lambda other, value: value or other,
    "quote": lambda value: json.dumps(_shown(value)),
    "printf": lambda form, *values: form % tuple(map(_shown, values)),
    "toYaml": _to_yaml,
    "nindent": _nindent,
}
