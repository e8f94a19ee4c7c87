"""Secrets do not get out, and what is none stays readable."""

from __future__ import annotations

import pytest

from kuberouterpy.redact import HIDDEN, is_secret, mapping, text, tree

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("secret", "around"),
    [
        ("hunter2", "password: hunter2"),
        ("hunter2", '{"kube-router.io/peer.passwords": "hunter2"}'),
        ("hunter2", "PEER_PASSWORD=hunter2 next"),
        ("hunter2", "passwd='hunter2'"),
        ("hunter2", "auth-password hunter2 is set by password=hunter2"),
        (TOKEN, f"token {TOKEN} expired"),
        (TOKEN, f"Authorization: Bearer {TOKEN}"),
        ("c2VjcmV0", "client-key-data: c2VjcmV0"),
        ("MIIEowIBAAKCAQEA7", f"key:\n{PEM}\nafter"),
        ("MIIEowIBAAKCAQEA7", PEM[:60]),
        ("s3cret", "https://user:s3cret@example.com/x"),
        ("s3cret", "api_key: s3cret, other: 1"),
    ],
)
def test_what_looks_like_a_secret_or_is_called_one_is_hidden(secret: str, around: str) -> None:
    shown = text(around).replace("auth-password hunter2", "")
    assert secret not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "harmless",
    [
        "event=applied ops=3 took_ms=14",
        "-A KUBE-POD-FW-AAAA -m set --match-set KUBE-SRC-XYZ src -j ACCEPT",
        "--peer-router-passwords-file=/etc/kuberouterpy/passwords",
        "passwordFile: /etc/x",
        "tcp 10.96.0.10:80 -> [fd00:10:1::1]:8080 weight 1",
        "label tokenless",
    ],
)
def test_what_is_no_secret_stays(harmless: str) -> None:
    assert text(harmless) == harmless


def test_annotations_are_judged_by_name() -> None:
    given = {
        "kube-router.io/peer.passwords": "aA==",
        "kube-router.io/peer.asns": "1,2",
        "kube-router.io/x.password": "",
    }
    assert mapping(given) == {**given, "kube-router.io/peer.passwords": HIDDEN}


def test_trees_keep_their_shape() -> None:
    given = {
        "users": [{"user": {"token": "x", "password": "y"}}],
        "port": 1,
        "passwords": ["a"],
        "peer_router_passwords_file": "/x",
    }
    assert tree(given) == {
        "users": [{"user": {"token": HIDDEN, "password": HIDDEN}}],
        "port": 1,
        "passwords": [HIDDEN],
        "peer_router_passwords_file": "/x",
    }
    assert is_secret("TLS_PRIVATE_KEY")
    assert not is_secret("monkey")
