"""``files.json``: what a checkpoint holds, and whether it is still what was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recmtl._files import is_name, naming, publish_folder, sha256_of, write_json
from recmtl.errors import CheckpointError

__all__ = [
    "MANIFEST",
    "fingerprint",
    "finish",
    "read_json",
    "read_manifest",
    "read_state",
    "verify",
]

FORMAT = 1
"""A reader reads its own format and older ones."""
MANIFEST = "files.json"
"""The list of the other files."""
_STATE = "state.json"


def verify(folder: Path, *, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """Compare every file of a checkpoint with its recorded size and sha256.

    Args:
        folder: a checkpoint.
        part: hash only this part of the files, where several processes share the work.
        parts: number of parts.

    Returns:
        The content of ``files.json``: ``format``, ``files`` and ``tensors``.

    Raises:
        CheckpointError: a file is missing, truncated or changed (each is named), or the folder is
            no checkpoint, or one of a newer recmtl.
    """
    manifest = read_manifest(folder)
    problems = []
    for name, recorded in list(manifest["files"].items())[part::parts]:
        try:
            _check_file(folder, name, recorded)
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError.all_of(problems)
    return manifest


def read_state(folder: Path) -> Any:
    """The JSON value that was given to `save`.

    Raises:
        CheckpointError: `folder` is no checkpoint, or the state does not have its sha256.
    """
    manifest = read_manifest(folder)
    _check_file(folder, _STATE, manifest["files"].get(_STATE))
    return read_json(folder / _STATE)


def fingerprint(folder: Path) -> str:
    """One sha256 for all that a checkpoint holds: that of its ``files.json``.

    Copies share it, and so does a run that was killed and continued in one process.
    """
    read_manifest(folder)
    return sha256_of(folder / MANIFEST)


def finish(temporary: Path, folder: Path, state: str, described: dict[str, Any]) -> None:
    """Add the state and the manifest to a folder of tensors, and give it its name.

    Args:
        temporary: the folder, its tensors written.
        folder: its name.
        state: JSON text.
        described: key -> dtype, shape and bytes of the whole tensor.
    """
    with naming(folder):
        for file in temporary.glob("*.safetensors"):
            _settle_header(file)
        (temporary / _STATE).write_text(state + "\n", encoding="utf-8")
        files = {
            p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)}
            for p in sorted(temporary.iterdir())
        }
        write_json(temporary / MANIFEST, {"format": FORMAT, "files": files, "tensors": described})
        publish_folder(temporary, folder)


def _settle_header(path: Path) -> None:
    """Bring the metadata of a file of tensors into order, in place: it is written in a random one.

    Equal checkpoints are then equal files.
    """
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of ``files.json``, after a look at the sizes of the files.

    Raises:
        CheckpointError: a file is missing or truncated, or the folder is no checkpoint, or one of a
            newer recmtl.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: is no folder, expected a checkpoint.")
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: is no checkpoint of recmtl, `{MANIFEST}` is missing.")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise CheckpointError(f"{path}: was not written by recmtl, it has no `format`.")
    if manifest["format"] > FORMAT:
        raise CheckpointError(
            f"{path}: has format {manifest['format']}, this recmtl reads up to {FORMAT}. "
            "Upgrade recmtl to read it."
        )
    for key in ("files", "tensors"):
        if not isinstance(manifest.get(key), dict):
            raise CheckpointError(f"{path}: was not written by recmtl, it has no `{key}`.")
    for name, recorded in manifest["files"].items():
        is_described = isinstance(recorded, dict) and recorded.keys() >= {"bytes", "sha256"}
        if not is_name(name) or not is_described:
            raise CheckpointError(
                f"{path}: {name[:100]!r} is no file beside it with `bytes` and `sha256`; it was"
                " not written by recmtl."
            )
        file = folder / name
        if not file.is_file() or file.is_symlink():
            raise CheckpointError(f"{file}: missing. Restore it, or use another checkpoint.")
        if file.stat().st_size != recorded["bytes"]:
            raise CheckpointError(
                f"{file}: has {file.stat().st_size} bytes, expected {str(recorded['bytes'])[:30]}. "
                "Restore it, or use another checkpoint."
            )
    for key, described in manifest["tensors"].items():
        if not _is_tensor(described):
            raise CheckpointError(
                f"{path}: tensor {key[:100]!r} has no `dtype`, `shape` and `bytes` as recmtl writes"
                " them. Restore it, or use another checkpoint."
            )
    present = {file.name for file in folder.iterdir() if file.name[0] != "."}
    foreign = present - manifest["files"].keys() - {MANIFEST}
    if foreign:
        raise CheckpointError(
            f"{folder / min(foreign)}: is not listed in {path.name}; it was not written with this "
            "checkpoint. Remove it."
        )
    return manifest


def _is_tensor(described: object) -> bool:
    """Whether a value read from a file says what a tensor is."""
    if not isinstance(described, dict) or not described.keys() >= {"dtype", "shape", "bytes"}:
        return False
    shape = described["shape"]
    sizes = [described["bytes"], *(shape if isinstance(shape, list) else [None])]
    return isinstance(described["dtype"], str) and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**62 for size in sizes
    )


def _check_file(folder: Path, name: str, recorded: Any) -> None:
    path = folder / name
    if recorded is None:
        raise CheckpointError(
            f"{folder / MANIFEST}: does not list `{name}`; it was not written by recmtl."
        )
    if sha256_of(path) != recorded["sha256"]:
        raise CheckpointError(
            f"{path}: its sha256 is not the recorded one; it was changed or damaged. "
            "Restore it, or use another checkpoint."
        )


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}).") from error
