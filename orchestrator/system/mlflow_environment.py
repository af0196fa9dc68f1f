"""What the environment tells MLflow, and the proxies between it and this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def spare_loopback() -> None:
    """Keep what is sent to this machine from being sent to a proxy, for good."""
    spelled = ("no_proxy", "NO_PROXY")
    hosts = _hosts(os.environ.get(name, "") for name in spelled)
    if "*" in hosts:
        return
    text = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    for name in spelled:
        os.environ[name] = text


def _hosts(lists: Iterator[str]) -> Sequence[str]:
    return [host for text in lists for host in (x.strip() for x in text.split(",")) if host]


_MLFLOW_KEPT = (
    # How a server or a store is reached.
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_HTTP_", "MLFLOW_S3_", "MLFLOW_GCS_", "MLFLOW_BOTO_", "MLFLOW_MYSQL_",
    "MLFLOW_KERBEROS_", "MLFLOW_SQLALCHEMYSTORE_", "MLFLOW_ARTIFACT_UPLOAD_", "MLFLOW_MULTIPART_",
    "MLFLOW_ENABLE_MULTIPART_", "MLFLOW_ENABLE_PROXY_MULTIPART_",
    # What MLflow does besides.
    "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "MLFLOW_UV_AUTO_DETECT",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "MLFLOW_LOGGING_LEVEL",
)  # fmt: skip
"""The beginnings of variables that say how MLflow works, not what and where it records."""


def own_mlflow(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a server of MLflow that is ours.

    MLflow's server takes each of its options from a variable, too: another registry, another place
    for artifacts, a prefix of its addresses, a host to answer on.

    Args:
        environment: What there is.

    Returns:
        The same without what would give the server other stores, options or addresses.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.lstrip("_").startswith("MLFLOW_") or name.startswith(_MLFLOW_KEPT)
    }


def mlflow_redirects() -> dict[str, str | None]:
    """The changes that keep what is recorded in MLflow where it is meant to be."""
    kept = own_mlflow(os.environ)
    return {name: None for name in os.environ if name not in kept}
