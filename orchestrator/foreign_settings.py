"""What other programs leave in the environment, and what a sweep makes of it.

Ray, MLflow and the libraries below them read dozens of environment variables, which login scripts,
job launchers and notebooks set for purposes of their own. An experiment's file and the command's
options say which cluster and which MLflow are meant; what would lead elsewhere is set aside.
Credentials, certificates, proxies and timeouts are the user's, and stay.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux, the end mark not counted."""
RAY_ADDRESS = "RAY_ADDRESS"
RAY_GCS_PORT = "RAY_GCS_SERVER_PORT"
RAY_REDIRECTS = (
    RAY_ADDRESS,
    # Wins over the address that a question about the cluster's state is given.
    "RAY_API_SERVER_ADDRESS",
    "RAY_NAMESPACE",
    "RAY_RUNTIME_ENV",
    "RAY_RUNTIME_ENV_HOOK",
    # Inside every submitted job: its settings would be mixed with ours, or refused beside them.
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    # Of a node that was started on this machine.
    "RAY_OVERRIDE_RESOURCES",
    "RAY_OVERRIDE_LABELS",
    "RAY_REDIS_ADDRESS",
    RAY_GCS_PORT,
)  # fmt: skip
"""What leads a Ray of our own to another cluster, or gives it another cluster's settings."""
_JOINING = (RAY_ADDRESS, "RAY_API_SERVER_ADDRESS")
"""What an address that was named wins over; the rest belongs to the cluster that is joined."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@contextmanager
def changed(values: Mapping[str, str | None]) -> Iterator[None]:
    """Meanwhile the environment of this process, and of what it starts, has other values.

    Args:
        values: By name; None takes the variable out.

    Yields:
        Nothing; afterwards every one of them is as it was.
    """
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


# --- Ray -----------------------------------------------------------------------------------------


def without_redirects(address: str | None) -> dict[str, str | None]:
    """The changes that keep a Ray which is started or joined the one that is meant.

    Args:
        address: As it was given to a command; None: a Ray of our own.

    Returns:
        What to take out of the environment.
    """
    if address is None:
        return dict.fromkeys(RAY_REDIRECTS)
    named = os.environ.get(RAY_ADDRESS, "")
    if address == "auto" and not named.startswith(("http://", "https://")):
        return {}  # "auto" means this very address, where there is one
    # That of a dashboard is for `ray job submit`; nothing can join there.
    return dict.fromkeys(_JOINING)


def set_aside() -> list[str]:
    """Variables that a sweep on this machine does not follow, each as `NAME=value`."""
    names = (RAY_ADDRESS, "RAY_API_SERVER_ADDRESS", "RAY_RUNTIME_ENV_HOOK")
    return [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]


@dataclass(frozen=True)
class RayFolder:
    """Where a Ray of our own keeps its sockets and logs."""

    path: Path
    refused: str = ""
    """Why it is not the folder that the environment names; empty where it is."""


def ray_folder() -> RayFolder:
    """Choose the folder for a Ray of our own: that of the environment, or another that is usable.

    Returns:
        The folder, which need not exist yet.

    Raises:
        OSError: If no folder is usable, with the reason of each.
    """
    wanted = [(name, os.environ[name]) for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    places = [(f"{name} {value}", Path(value) / "ray") for name, value in wanted[:1]]
    others = (Path("/tmp/ray"), Path(f"/tmp/ray-{os.getuid()}"), Path("/var/tmp/ray"))
    refused: list[str] = []
    for words, folder in (*places, *((str(folder), folder) for folder in others)):
        why = _unusable(folder)
        if why is None:
            return RayFolder(folder, "; ".join(refused[:1]))
        refused.append(f"{words} {why}")
    raise OSError("; ".join(refused))


def _unusable(folder: Path) -> str | None:
    """Why Ray cannot keep its sockets in a folder; None where it can."""
    session = f"session_2000-01-01_00-00-00_000000_{2**22}/sockets/plasma_store"
    length = len(os.fsencode(folder / session))
    if length > SOCKET_BYTES:
        return (
            f"is too long: the paths of Ray's sockets below it have {length} bytes, and a Unix "
            f"socket's has at most {SOCKET_BYTES}"
        )
    if not folder.is_absolute():
        return "is not an absolute path"
    # Ray makes the folder itself, so that other users of the machine can share it.
    return None if _can_hold(folder) else "cannot be written"


def _can_hold(folder: Path) -> bool:
    """Whether something can be written in a folder, which may have yet to be made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def temporary_holds_sockets() -> bool:
    """Whether a Unix socket fits below the folder for temporary files, as Python makes them."""
    listener = Path(tempfile.gettempdir()) / "pymp-00000000/listener-00000000"
    return len(os.fsencode(listener)) <= SOCKET_BYTES


@contextmanager
def token_without_home() -> Iterator[None]:
    """Meanwhile a Ray of our own has a token, also where it cannot keep one in the home folder.

    Ray asks whoever talks to a cluster for a token, and keeps it in `~/.ray` for the next time.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(os.environ.get(name) for name in names) or _can_keep(Path.home() / ".ray/auth_token"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ray-token-") as folder:  # readable by us alone
        file = Path(folder) / "token"
        file.write_text(secrets.token_hex(32), encoding="ascii")
        with changed({"RAY_AUTH_TOKEN_PATH": str(file)}):
            yield


def _can_keep(file: Path) -> bool:
    if file.is_file():
        return os.access(file, os.R_OK)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)  # as Ray is about to
    except OSError:
        return False
    return _can_hold(file.parent)


# --- GPUs ----------------------------------------------------------------------------------------


def hidden_gpus() -> str:
    """Which variable says that this process sees only some GPUs, or none; empty where none does."""
    names = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    return ", ".join(
        f"{name} is {os.environ[name]!r}"
        for name in names
        if os.environ.get(name, "all") not in {"all", "void"}
    )


# --- the hub -------------------------------------------------------------------------------------


def hub_cache() -> Path:
    """Where the hub's client keeps what it has downloaded, as it finds it itself."""
    home = os.environ.get("HF_HOME")
    if not home:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.path.expandvars(home)).expanduser()


def hub_hindered() -> str:
    """What in the environment keeps models and data of the hub from this machine.

    Returns:
        Sentences with their cures; empty where nothing does.
    """
    found: list[str] = []
    offline = [name for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
               if os.environ.get(name, "").upper() in _YES]  # fmt: skip
    if offline:
        found.append(f"{', '.join(offline)} says that the hub is not to be asked; unset it.")
    places = {"HF_HOME": hub_cache()} | {
        name: Path(os.environ[name]).expanduser()
        for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE")
        if os.environ.get(name)
    }
    for name, folder in places.items():
        if not _can_hold(folder.absolute()):
            found.append(
                f"The cache {folder} cannot be written; set {name} to a folder that you can write "
                "to."
            )
    return " ".join(found)


_YES = {"1", "ON", "YES", "TRUE"}

# --- proxies -------------------------------------------------------------------------------------


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


# --- MLflow --------------------------------------------------------------------------------------

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
