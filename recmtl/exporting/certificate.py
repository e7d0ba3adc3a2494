"""`certificate.json`: what an export holds, how exact it is, and the sha256 of every file."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recmtl._files import is_name, sha256_of
from recmtl.checkpoint.sealed import read_sealed, sealed
from recmtl.errors import CheckpointError

__all__ = ["CERTIFICATE", "machine", "read_certificate", "require_machine", "write_certificate"]

CERTIFICATE = "certificate.json"
_FORMAT = 1
_LEVELS = ("DEFAULT", "AVX2", "AVX512")


def write_certificate(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write what is known of an export, with the size and sha256 of every other file."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in sorted(_files(folder))
    }
    certificate = {"format": _FORMAT, **about, "files": files}
    (folder / CERTIFICATE).write_text(sealed(certificate), encoding="utf-8")
    return certificate


def read_certificate(folder: Path) -> dict[str, Any]:
    """The certificate of an export, every file of which was compared with its sha256.

    Raises:
        CheckpointError: the folder is no export or one of a newer recmtl, or a file was changed, is
            missing, or is not one of the export; all files are named.
    """
    path = folder / CERTIFICATE
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: is no export (`{CERTIFICATE}` is missing). Pass the `--out` of a `recmtl "
            "export`."
        )
    certificate = read_sealed(path)
    if certificate.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: has format {certificate.get('format')!r}, this recmtl reads {_FORMAT}. Export"
            " the run again, or install the recmtl that wrote it."
        )
    recorded = certificate.get("files")
    if not isinstance(recorded, dict) or not all(_is_listed(*item) for item in recorded.items()):
        raise CheckpointError(f"{path}: lists no files beside it; it was not written by recmtl.")
    found = _files(folder)
    problems = [f"{folder / name}: is missing." for name in recorded if name not in found]
    problems += [
        f"{folder / name}: is not one of the export's files."
        for name in found
        if name not in recorded
    ]
    problems += [
        f"{folder / name}: its sha256 is not the recorded one; it was changed or damaged."
        for name, about in recorded.items()
        if name in found
        and ((folder / name).is_symlink() or sha256_of(folder / name) != about["sha256"])
    ]
    if problems:
        raise CheckpointError.all_of([*problems, f"{folder}: export the run again."])
    return certificate


def machine() -> dict[str, str]:
    """What compiled code depends on."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def require_machine(path: Path, made_on: Mapping[str, str]) -> None:
    """Require that code compiled on one machine runs on this one: otherwise it would end us.

    Raises:
        CheckpointError: it does not.
    """
    here = machine()
    same = all(here[key] == made_on[key] for key in ("system", "processor"))
    levels = [each["instructions"] for each in (here, made_on)]
    fits = levels[0] == levels[1] or (
        all(level in _LEVELS for level in levels)
        and _LEVELS.index(levels[0]) >= _LEVELS.index(levels[1])
    )
    if not (same and fits):
        raise CheckpointError(
            f"{path}: was compiled for {' '.join(made_on.values())}, and this is "
            f"{' '.join(here.values())}. Export the run on such a machine."
        )


def _files(folder: Path) -> list[str]:
    """Names of all files and links but the certificate, at any depth."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink()) and path != folder / CERTIFICATE
    ]


def _is_listed(name: str, about: object) -> bool:
    """Whether an entry says which file below the folder it is of, and its sha256."""
    return all(map(is_name, name.split("/"))) and isinstance(about, dict) and "sha256" in about
