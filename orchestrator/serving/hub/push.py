"""Sending an exported folder to the Hugging Face hub, by the hub's own client."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.system.hub_environment import hub_hindered
from orchestrator.system.user_error import UserError
from orchestrator.system.wording import cut, one_line

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_CURES = {
    401: "Give a token with `hf auth login`.",
    403: "The token may not write there: use one that may, or another OWNER.",
}
_SECRET = re.compile(r"hf_\w+|(?<=Bearer )\S+")


class PushError(UserError, RuntimeError):
    """A folder that could not be sent; the message says why and what to do."""


def check_repository(name: str) -> str:
    """Refuse what is no name of a repository, before anything is exported.

    Args:
        name: What the user gave.

    Returns:
        The name.

    Raises:
        PushError: It is not OWNER/NAME, or the environment keeps the hub away.
    """
    if _REPOSITORY.fullmatch(name) is None or ".." in name or "--" in name:
        raise PushError(
            f"`--push` should be OWNER/NAME of a repository on the hub, got {cut(name)!r}."
        )
    if hindered := hub_hindered():
        raise PushError(f"Nothing can be sent to the hub: {hindered}")
    return name


def push(folder: Path, repository: str, *, public: bool) -> str:
    """Send a folder to the hub as one commit.

    The token is the one that the hub's client finds itself (`hf auth login`, or HF_TOKEN), and the
    address HF_ENDPOINT's, if it is set.

    Args:
        folder: What was exported, with its card.
        repository: OWNER/NAME; made where it is not there.
        public: Whether everybody sees a repository that is made; one that is there stays as it is.

    Returns:
        Its address.

    Raises:
        PushError: The hub refuses, or is not reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name="curlora-orchestrator")
    try:
        made = api.create_repo(repository, private=not public, exist_ok=True, token=True)
        api.upload_folder(
            repo_id=repository, folder_path=str(folder), token=True,
            commit_message="Add an adapter and its card",
        )  # fmt: skip
    except LocalTokenNotFoundError:
        raise PushError(
            "There is no token for the hub. Give one with `hf auth login`, or in the environment "
            f"variable HF_TOKEN. What was exported is in {folder}."
        ) from None
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        cure = _CURES.get(status or 0, "Give the same command again, or see `hf auth whoami`.")
        raise PushError(
            f"The hub does not take {repository}: {without_secrets(one_line(error))} {cure} What "
            f"was exported is in {folder}."
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise PushError(
            f"{repository} could not be sent: {without_secrets(one_line(error))} What was exported "
            f"is in {folder}."
        ) from None
    return str(made)


def without_secrets(text: str) -> str:
    """A text without what looks like a token."""
    return _SECRET.sub("***", text)
