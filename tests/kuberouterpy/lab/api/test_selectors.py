from __future__ import annotations

import pytest

from kuberouterpy.lab.api.errors import StatusError
from kuberouterpy.lab.api.selectors import fields, labels


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("", True),
        ("app=web", True),
        ("app == web", True),
        ("app!=web", False),
        ("gone!=x", True),
        ("app in (api, web)", True),
        ("app in (api)", False),
        ("app notin (api)", True),
        ("gone notin (x)", True),
        ("gone in (x)", False),
        ("app", True),
        ("!app", False),
        ("!gone", True),
        ("app=web,tier in (a,b),n>3", True),
        ("app=web,n<3", False),
        ("empty=", True),
        ("example.com/role=x", True),
    ],
)
def test_label_selectors(selector: str, selected: bool) -> None:
    given = {"app": "web", "tier": "a", "n": "5", "empty": "", "example.com/role": "x"}
    assert labels(selector)(given) == selected


@pytest.mark.parametrize("selector", ["app in web", "a b", "=x", "app in (a", "a>b"])
def test_a_selector_that_is_none_is_refused(selector: str) -> None:
    with pytest.raises(StatusError) as refusal:
        labels(selector)
    assert refusal.value.code == 400


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("metadata.name=p", True),
        ("metadata.name!=p", False),
        ("spec.nodeName=n1,status.phase=Running", True),
        ("spec.nodeName==n2", False),
        ("spec.nodeName=", False),
        ("status.podIP=", True),
        ("spec.hostNetwork=false", True),
    ],
)
def test_field_selectors_of_pods(selector: str, selected: bool) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
    assert fields(selector, "pods")(pod) == selected


def test_a_field_that_cannot_be_selected_is_refused() -> None:
    with pytest.raises(StatusError, match=r"field label not supported: spec\.nope"):
        fields("spec.nope=1", "pods")
