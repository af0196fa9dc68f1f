"""Text and documents without the secrets that addresses carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
"""Stands where a secret was."""


_SECRET = (
    r"pass(?:word|wd|phrase)?|pwd|token|key|secret|sig|signature|auth|authorization|credentials?"
)
_SECRET_VALUE = re.compile(
    # The name may have words before and after the telling one: X-Amz-Security-Token, api_key_2.
    rf"(?i)([?&;#](?:[\w.%-]*[_.-])?(?:[a-z]*(?:{_SECRET}))(?:[_.-][\w.-]*)?=)[^&;\s'\"]+"
)
_CONNECTION_TEXT = re.compile(r"(?i)([?&]odbc_connect=)[^&\s'\"]+")
_USER = re.compile(r"(?<=://)(?:[^\s/]*|[^\s/@:]+:[^\s@]*)@")
_HEADER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:basic|bearer|token)\s+)[^\s'\"]+")


def redacted(text: str) -> str:
    """The same text with user names, passwords, tokens and signatures replaced by `***`."""
    text = _USER.sub(f"{HIDDEN}@", text)
    for pattern in (_SECRET_VALUE, _CONNECTION_TEXT, _HEADER):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def redacted_document(value: Any) -> Any:
    """A JSON-like document with `redacted` applied to every string in it."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: redacted_document(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_document(item) for item in value]
    return value
