"""What is wrong with an object, field by field, in the words of a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterable

Problem = tuple[str, str, str]
"""(reason, field, message), a cause of a 422."""


class Report:
    """Collects problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        """Everything found, in the order of finding."""

    def invalid(self, field: str, value: object, text: str) -> None:
        """The value is not allowed."""
        self.problems.append(("FieldValueInvalid", field, f"Invalid value: {_shown(value)}: {text}"))

    def required(self, field: str, text: str = "") -> None:
        """The field must be given."""
        self.problems.append(("FieldValueRequired", field, f"Required value: {text}" if text else "Required value"))

    def duplicate(self, field: str, value: object) -> None:
        """The value occurs twice."""
        self.problems.append(("FieldValueDuplicate", field, f"Duplicate value: {_shown(value)}"))

    def forbidden(self, field: str, text: str) -> None:
        """The field must not be given, or not be changed."""
        self.problems.append(("FieldValueForbidden", field, f"Forbidden: {text}"))

    def unsupported(self, field: str, value: object, allowed: Iterable[str]) -> None:
        """The value is none of a set."""
        names = ", ".join(f'"{one}"' for one in sorted(allowed))
        self.problems.append(
            ("FieldValueNotSupported", field, f"Unsupported value: {_shown(value)}: supported values: {names}")
        )

    def too_many(self, field: str, count: int, limit: int) -> None:
        """The list is too long."""
        self.problems.append(("FieldValueTooMany", field, f"Too many: {count}: must have at most {limit} items"))

    def too_long(self, field: str, limit: int) -> None:
        """The value is too large. Unit: bytes."""
        self.problems.append(("FieldValueTooLong", field, f"Too long: may not be more than {limit} bytes"))

    def all(self, field: str, value: object, texts: Iterable[str]) -> None:
        """Each text says one thing that is wrong with the value."""
        for text in texts:
            self.invalid(field, value, text)


def _shown(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)
