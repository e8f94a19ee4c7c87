"""What the agent answers when a person asks: its objects, its plan, and why a thing is there or is not.

Every function takes the loop and returns a frozen value that encodes to JSON. The agent calls them on the loop's thread
(through :class:`kuberouterpy.loop.Ask`), the command line calls the very same ones on a loop over a folder of YAML: there is
no second implementation of any answer.

Cost: a question about everything walks everything once (0.3 s for 100,000 objects); nothing is indexed for it.

One module a question: :mod:`.views` (objects), :mod:`.planned`, :mod:`.explained`, :mod:`.policed` (policies). A new question
is a module and a line in :data:`QUESTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kuberouterpy.answers.explained import Explained, Explanations, explain, explain_one
from kuberouterpy.answers.overview import ForeignView, NeighborView, Overview, overview
from kuberouterpy.answers.planned import ChangeView, Plan, plan
from kuberouterpy.answers.policed import Connection, PolicyList, connection, list_policies, names
from kuberouterpy.answers.subjects import KIND_WORDS, UnknownSubject, read_socket, subjects
from kuberouterpy.answers.told import FactTables, facts
from kuberouterpy.answers.traced import Trace, Traces, trace
from kuberouterpy.answers.views import NoteView, Objects, RuleView, View, Viewer, notes, objects, summary
from kuberouterpy.loop import Loop

__all__ = [
    "KIND_WORDS",
    "QUESTIONS",
    "ChangeView",
    "Connection",
    "Explained",
    "Explanations",
    "FactTables",
    "ForeignView",
    "NeighborView",
    "NoteView",
    "Objects",
    "Overview",
    "Plan",
    "PolicyList",
    "RuleView",
    "Trace",
    "Traces",
    "UnknownSubject",
    "View",
    "Viewer",
    "answer",
    "connection",
    "explain",
    "explain_one",
    "facts",
    "list_policies",
    "names",
    "notes",
    "objects",
    "overview",
    "plan",
    "read_socket",
    "subjects",
    "summary",
    "trace",
]

Words = Mapping[str, Sequence[str]]
"""The words of a question's query."""
QUESTIONS: Final[dict[str, Callable[[Loop, Words, float], object]]] = {
    "objects": lambda loop, words, now: objects(loop, words.get("kind", ()), now=now),
    "plan": lambda loop, words, now: plan(loop),
    "trace": lambda loop, words, now: trace(
        loop,
        _one(words, "source"),
        _one(words, "destination"),
        protocol=next(iter(words.get("protocol", ())), ""),
        family=int(next(iter(words.get("family", ())), "0")),
    ),
    # The agent adds what its sidecar says of neighbors.
    "overview": lambda loop, words, now: overview(loop, {}),
    "subjects": lambda loop, words, now: subjects(loop),
    "explain": lambda loop, words, now: explain(loop, words.get("subject", ()), now=now),
    "facts": lambda loop, words, now: facts(loop),
    "policies": lambda loop, words, now: list_policies(loop),
    "names": lambda loop, words, now: names(loop),
    "connection": lambda loop, words, now: connection(loop, *(_one(words, name) for name in ("from", "to", "port"))),
}
"""What can be asked. Errors of each: UnknownSubject says what there is instead."""


def _one(words: Words, name: str) -> str:
    if not words.get(name):
        raise UnknownSubject(f"the question lacks its {name}")
    return words[name][0]


def answer(loop: Loop, question: str, words: Words, *, now: float) -> object:
    """Return the answer to a question by name, with the words of its query. Errors: UnknownSubject."""
    answering = QUESTIONS.get(question)
    if answering is None:
        raise UnknownSubject(f"no question is called {question}; there are status, {', '.join(QUESTIONS)}")
    return answering(loop, words, now)
