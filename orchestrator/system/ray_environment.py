"""What the environment tells Ray, the folder of a Ray of our own, and tokens for clusters."""

from __future__ import annotations

import http.client
import os
import secrets
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.system.environment import can_hold_files, changed

SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux, the end mark not counted."""
RAY_ADDRESS = "RAY_ADDRESS"
RAY_AUTH_MODE = "RAY_AUTH_MODE"
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_ASKED = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""A question to the head of a cluster that changes nothing."""
ANSWER_SECONDS = 5.0
"""How long a cluster may take to say whether it asks for a token."""
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
        why = unusable(folder)
        if why is None:
            return RayFolder(folder, "; ".join(refused[:1]))
        refused.append(f"{words} {why}")
    raise OSError("; ".join(refused))


def unusable(folder: Path) -> str | None:
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
    return None if can_hold_files(folder) else "cannot be written"


def temporary_holds_sockets() -> bool:
    """Whether a Unix socket fits below the folder for temporary files, as Python makes them."""
    listener = Path(tempfile.gettempdir()) / "pymp-00000000/listener-00000000"
    return len(os.fsencode(listener)) <= SOCKET_BYTES


@contextmanager
def own_token() -> Iterator[None]:
    """Meanwhile a Ray of our own has a token, which is readable by this user alone.

    Ray asks whoever talks to a cluster for a token, and keeps it in `~/.ray` for the next time. It
    would write that file for all users of the machine to read; and where there is no home folder it
    finds no place for it.
    """
    if any(os.environ.get(name) for name in (RAY_AUTH_MODE, *_TOKENS)) or _kept(token_file()):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ray-token-") as folder:  # readable by us alone
        file = Path(folder) / "token"
        _write_token(file)
        with changed({"RAY_AUTH_TOKEN_PATH": str(file)}):
            yield


def token_file() -> Path:
    """Where Ray looks for a token that the environment does not name."""
    return Path.home() / ".ray" / "auth_token"


def _kept(file: Path) -> bool:
    """Whether there is a token, made now where there was none."""
    if file.is_file():
        return os.access(file, os.R_OK)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)  # as Ray is about to
        _write_token(file)
    except FileExistsError:
        return True  # another command was faster
    except OSError:
        return False
    return True


def _write_token(file: Path) -> None:
    """Write a new token, whole or not at all.

    Raises:
        OSError: If it cannot be written, or is there (`FileExistsError`).
    """
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(secrets.token_hex(32))
        os.link(fresh, file)  # unlike a renaming, it replaces none
    finally:
        fresh.unlink()


def cluster_asks_for_token(address: str) -> bool:
    """Whether a cluster refuses whoever brings no token.

    Args:
        address: HOST:PORT of its head, or the `http://` address of its dashboard.

    Returns:
        Whether it has refused; False where nobody answers, which whoever joins it says better.
    """
    if address.startswith(("http://", "https://")):
        return _dashboard_refuses(address)
    import grpc

    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(_ASKED)  # bytes go as they are: an empty message
        try:
            ask(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            return getattr(error, "code", lambda: None)() is grpc.StatusCode.UNAUTHENTICATED
    return False


def _dashboard_refuses(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=ANSWER_SECONDS):
            return False
    except urllib.error.HTTPError as error:
        return error.code in {401, 403}
    except (OSError, ValueError, http.client.HTTPException):
        return False


def token_mode(address: str) -> dict[str, str | None]:
    """The changes that let a process talk to a running cluster, with a token where that asks.

    Both sides have to be of one mind: a process in Ray's token mode refuses what a cluster without
    one sends. What the environment says of it is left as it is.

    Args:
        address: As for `cluster_asks_for_token`.

    Returns:
        What to change in the environment.
    """
    if os.environ.get(RAY_AUTH_MODE) is not None or not cluster_asks_for_token(address):
        return {}
    return {RAY_AUTH_MODE: "token"}


def without_token() -> str:
    """What is wrong where a cluster asks for a token and none is here; empty where one is."""
    file = token_file()
    if any(os.environ.get(name) for name in _TOKENS) or os.access(file, os.R_OK):
        return ""
    return (
        f"it asks for a token, and there is none in {file} nor in RAY_AUTH_TOKEN_PATH. Copy that "
        "file from the machine where the cluster was started (`ray get-auth-token` prints it there)"
    )
