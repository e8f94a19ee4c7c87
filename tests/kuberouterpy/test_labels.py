"""Label selectors mean what apimachinery says, absent keys included."""

from __future__ import annotations

import pytest

from kuberouterpy.labels import EVERYTHING, PodSelector, selector, term

LABELS = {"app": "web", "tier": "front"}


@pytest.mark.parametrize(
    ("key", "operator", "values", "expected"),
    [
        ("app", "In", ("web", "api"), True),
        ("app", "In", ("api",), False),
        ("zone", "In", ("a",), False),
        ("app", "NotIn", ("web",), False),
        ("app", "NotIn", ("api",), True),
        ("zone", "NotIn", ("a",), True),  # absent: not in
        ("app", "Exists", (), True),
        ("zone", "Exists", (), False),
        ("app", "DoesNotExist", (), False),
        ("zone", "DoesNotExist", (), True),
    ],
)
def test_every_operator(key: str, operator: str, values: tuple[str, ...], expected: bool) -> None:
    assert selector(None, (term(key, operator, values),)).matches(LABELS) is expected


def test_all_terms_must_hold_and_none_means_everything() -> None:
    assert selector({"app": "web", "tier": "front"}).matches(LABELS)
    assert not selector({"app": "web"}, (term("tier", "DoesNotExist"),)).matches(LABELS)
    assert EVERYTHING.matches({})


def test_selectors_written_differently_but_alike_in_meaning_are_one() -> None:
    one = selector({"app": "web"}, (term("tier", "In", ("b", "a", "a")),))
    other = selector(None, (term("tier", "In", ("a", "b")), term("app", "In", ("web",))))
    assert one == other
    assert hash(one) == hash(other)


@pytest.mark.parametrize(
    ("key", "operator", "values"),
    [("app", "in", ("x",)), ("app", "In", ()), ("app", "NotIn", ()), ("app", "Exists", ("x",)), ("", "Exists", ())],
)
def test_a_term_that_guesses_is_refused(key: str, operator: str, values: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="selector"):
        term(key, operator, values)


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (PodSelector(EVERYTHING, "default"), "pods <all> in namespace default"),
        (PodSelector(selector({"app": "web"}), namespaces=EVERYTHING), "pods app=web in namespaces <all>"),
        (
            PodSelector(selector(None, (term("a", "In", ("x", "y")), term("b", "NotIn", ("z",)))), "n"),
            "pods a in (x,y),b notin (z) in namespace n",
        ),
        (
            PodSelector(selector(None, (term("a", "Exists"), term("b", "DoesNotExist"))), "n"),
            "pods a,!b in namespace n",
        ),
    ],
)
def test_a_selector_reads_as_kubectl_writes_it(chosen: PodSelector, text: str) -> None:
    assert str(chosen) == text
