"""The base class of every part of a user's file, paths in it, and errors as sentences."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from orchestrator.system.user_error import UserError
from orchestrator.system.wording import suggestion


class Spec(BaseModel):
    """A part of a user's file: frozen, and every unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_NAME_BYTES, _PATH_BYTES = 255, 2000
"""The longest name on Linux, and half of the longest path: what it is relative to comes on top."""


def _possible(path: str) -> str:
    """Refuse what no file system can hold; Python raises foreign errors where it is looked for."""
    if "\0" in path:
        raise ValueError("no path holds a null character; remove it")
    longest = max(len(name.encode("utf-8", "replace")) for name in path.split("/"))
    if longest > _NAME_BYTES:
        raise ValueError(
            f"no file or folder has a name of {longest:,} bytes; write one of at most {_NAME_BYTES}"
        )
    whole = len(path.encode("utf-8", "replace"))
    if whole > _PATH_BYTES:
        raise ValueError(
            f"a path of {whole:,} bytes is too long; write one of at most {_PATH_BYTES:,}"
        )
    return path


PathText = Annotated[str, AfterValidator(_possible)]
"""A text that is looked for as a path, or becomes a part of one."""


def _quotes(value: object) -> str:
    """How a value that YAML took for something else becomes a text."""
    if isinstance(value, bool):
        return (
            f" (YAML reads an unquoted yes, no, on, off, true or false as {value}; write it in "
            "quotes)"
        )
    return " (write it in quotes)" if isinstance(value, int | float | datetime.date) else ""


def render_validation_error(
    error: ValidationError, origin: str, known: list[str], kinds: Collection[str] = ()
) -> str:
    """Each problem on its own line: file, field, problem, value and the nearest valid name.

    Args:
        error: What pydantic found.
        origin: The file, for the message.
        known: Field names, to suggest the nearest.
        kinds: Every value that a `kind` may have in it.

    Returns:
        The message.
    """
    lines: list[str] = []
    for problem in error.errors():
        # A discriminated union puts the chosen kind into the location; people do not write it.
        place = ".".join(str(part) for part in problem["loc"] if str(part) not in kinds)
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            last = str(problem["loc"][-1])
            text = f"unknown field.{suggestion(last, [k for k in known if k != last])}".rstrip(".")
        if problem["type"] == "union_tag_invalid":
            found = problem.get("ctx", {})
            tag, tags = str(found.get("tag")), str(found.get("expected_tags"))
            listed = [one.strip(" '") for one in tags.split(",")]
            text = f"unknown kind {tag!r}.{suggestion(tag, listed)} Kinds: {', '.join(listed)}"
        if problem["type"] == "string_type":
            text += _quotes(problem["input"])
        got = "" if problem["type"] == "missing" else f"; got {problem['input']!r}"
        if got.removeprefix("; ") in text:
            got = ""
        if len(got) > 120:
            got = got[:117] + "..."
        lines.append(f"{origin}: {place or 'the file'}: {text}{got}")
    return "\n".join(lines)


class ExperimentError(UserError, ValueError):
    """A wrong experiment; the message names file, field, value and the nearest valid name."""
