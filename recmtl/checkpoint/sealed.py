"""Files that carry their own sha256: JSON objects, and pages of HTML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recmtl._files import as_json
from recmtl.errors import CheckpointError

__all__ = ["is_sealed_page", "read_sealed", "sealed", "sealed_page"]


def sealed(value: Mapping[str, Any]) -> str:
    """A JSON object with one more key, the sha256 of its text without it."""
    digest = hashlib.sha256(as_json(value).encode()).hexdigest()
    return as_json({**value, "sha256": digest})


def read_sealed(path: Path) -> dict[str, Any]:
    """The object that was written as `sealed`, without its seal.

    Raises:
        CheckpointError: it cannot be read, or a byte of it is another one.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(value, dict) or "sha256" not in value:
        raise CheckpointError(f"{path}: was not written by recmtl, it has no `sha256`.")
    value.pop("sha256")
    try:
        is_whole = sealed(value) == text
    except (ValueError, RecursionError):  # NaN, which is never written
        is_whole = False
    if not is_whole:
        raise CheckpointError(
            f"{path}: its sha256 is not the recorded one; it was changed or damaged. Restore it, "
            "or train again."
        )
    return value


def sealed_page(text: str) -> str:
    """A page of HTML with its own sha256 in a comment at its end."""
    return text + _seal(text.encode())


def is_sealed_page(page: bytes) -> bool:
    """Whether every byte of a page is the one that was written."""
    text = page[: -len(_seal(b""))]
    return page == text + _seal(text).encode()


def _seal(text: bytes) -> str:
    return f"<!-- sha256 {hashlib.sha256(text).hexdigest()} -->\n"
