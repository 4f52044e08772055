"""A hash over all of a file: what it computes, and what it says of itself."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "sha256"


def sealed(metadata: Mapping[str, Any], content_sha256: str) -> dict[str, Any]:
    """The metadata with the hash of itself and of the content.

    Args:
        metadata: as JSON has it.
        content_sha256: hash of what the file computes.
    """
    return {**metadata, SEAL: _digest(metadata, content_sha256)}


def require_seal(metadata: Mapping[str, Any], content_sha256: str) -> None:
    """Refuses a file that is not as it was written.

    Raises:
        ValueError: the hash is another.
    """
    rest = {name: value for name, value in metadata.items() if name != SEAL}
    if metadata.get(SEAL) != _digest(rest, content_sha256):
        raise ValueError("it is not as it was written: the SHA-256 over all of it is another than it states")


def _digest(metadata: Mapping[str, Any], content_sha256: str) -> str:
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(f"{text}{content_sha256}".encode()).hexdigest()
