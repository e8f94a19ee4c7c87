"""Where the API server is and how to prove who we are: kubeconfig, the pod's service account, or a bare URL.

The ``kubernetes`` package reads them and makes the TLS pool; what it leaves unsaid is said here: which file is broken, and how.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import load_incluster_config, load_kube_config
from kubernetes.config.config_exception import ConfigException

from kuberouterpy.config import Config
from kuberouterpy.errors import ConfigError

POOL_SIZE: Final = 16
"""Six watches, lists and Events, each with a connection."""
KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""A peer that vanished without a word is noticed in about a minute instead of at the end of the watch."""


def load(config: Config) -> tuple[Any, Any]:
    """Return the package's Configuration and its connection pool."""
    settings = Configuration()
    settings.connection_pool_maxsize = POOL_SIZE
    source = f"kubeconfig {config.kubeconfig}" if config.kubeconfig else "the pod's service account"
    try:
        if config.kubeconfig:
            _load_file(config.kubeconfig, settings)
        elif not config.master:
            _load_pod(settings)
        if config.master:
            settings.host = config.master
        _check_server(settings.host, "--master" if config.master else source)
        _check_tls(settings)
        pool = ApiClient(configuration=settings).rest_client.pool_manager
    except ConfigException as error:
        raise ConfigError(f"{source}: {_words(error)}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{source}: {_words(error)}") from None
    pool.connection_pool_kw["socket_options"] = list(KEEPALIVE)
    if not settings.verify_ssl:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return settings, pool


def _load_file(name: str, settings: Any) -> None:
    path = Path(name).expanduser()
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"kubeconfig {name}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"kubeconfig {name}: is not YAML ({_words(error)})") from None
    try:
        _check_document(document)
    except ValueError as error:
        raise ConfigError(f"kubeconfig {name}: {error}") from None
    load_kube_config(config_file=str(path), client_configuration=settings, persist_config=False)


def _check_document(document: object) -> None:
    """Raise ValueError for what the package would answer with a TypeError or a dump."""
    if not isinstance(document, dict):
        raise ValueError("is empty or not a mapping; it needs clusters, contexts and users")
    current = document.get("current-context")
    clusters, contexts = _named(document, "clusters"), _named(document, "contexts")
    if not current:
        raise ValueError("has no current-context; set one with kubectl config use-context")
    if current not in contexts:
        raise ValueError(f"current-context {current!r} is not one of its contexts ({', '.join(contexts)})")
    context = contexts[current].get("context")
    cluster = context.get("cluster") if isinstance(context, dict) else None
    if cluster not in clusters:
        raise ValueError(f"context {current!r} names cluster {cluster!r}, which is not there")
    settings = clusters[cluster].get("cluster")
    if not isinstance(settings, dict) or not isinstance(settings.get("server"), str):
        raise ValueError(f"cluster {cluster!r} has no server")
    user = context.get("user") if isinstance(context, dict) else None
    if user and user not in _named(document, "users"):
        raise ValueError(f"context {current!r} names user {user!r}, which is not there")


def _named(document: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    items = document.get(key)
    if not isinstance(items, list) or not items:
        raise ValueError(f"has no {key}")
    if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in items):
        raise ValueError(f"{key} has an item without name")
    return {item["name"]: item for item in items}


def _load_pod(settings: Any) -> None:
    try:
        load_incluster_config(client_configuration=settings)
    except ConfigException as error:
        raise ConfigError(f"not in a pod ({_words(error)}); give --kubeconfig or --master") from None


def _check_server(url: str, source: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{source}: {url!r} is not the URL of an API server; write https://HOST:PORT")
    try:
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{source}: {url!r} has a port that is not a number") from None


def _check_tls(settings: Any) -> None:
    """Read certificates now: urllib3 would fail at the first connection, in words that name no file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        what = f"certificate-authority{_shown(settings.ssl_ca_cert)}"
        if settings.ssl_ca_cert:
            context.load_verify_locations(cafile=settings.ssl_ca_cert)
        what = f"client-certificate{_shown(settings.cert_file)} with client-key{_shown(settings.key_file)}"
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"{what}: {_words(error)}") from None


def _shown(path: str | None) -> str:
    # Data of the kubeconfig is put into a file of its own, whose name would say nothing.
    made = f"{tempfile.gettempdir()}/{tempfile.gettempprefix()}"
    return f" {path}" if path and not path.startswith(made) else "-data"


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:300].rstrip(".")
