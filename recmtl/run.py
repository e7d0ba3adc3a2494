"""The run folder: all that training leaves and all that scoring needs.

- `config.yaml`: the resolved spec.
- `encoders/`: vocabularies and statistics.
- `checkpoints/`: see `recmtl.checkpoint`.
- `run.json`: state and fingerprints.
- `versions.json`: what it was trained with.
- `metrics.jsonl`: losses and metrics, a line each.
- `plan.txt`: how the tables were placed.
- `validation.json`, `report.html`: written when training ends, and by `recmtl report`.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

from recmtl import __version__
from recmtl._files import atomic_folder, write_json
from recmtl.config import RunConfig, dump_yaml, fingerprint, load_spec
from recmtl.data import Encoders
from recmtl.errors import CheckpointError, RecMTLError, SpecError

__all__ = ["Run", "versions"]

_FORMAT = 1
_PACKAGES = (
    "torch",
    "torchrec",
    "fbgemm-gpu-cpu",
    "fbgemm-gpu",
    "lightning",
    "polars",
    "numpy",
    "safetensors",
)


class Run:
    """A run folder, opened.

    Args:
        path: the folder.

    Raises:
        CheckpointError: the folder is not a run, or one of its files is corrupt.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the run's state."""
        self.path = Path(path)
        self._state = self._read_state()

    @classmethod
    def create(
        cls, path: Path, config: RunConfig, encoders: Encoders, *, data_fingerprint: str
    ) -> Run:
        """Make a run folder with its config and encoders; it appears whole or not at all."""
        state = {
            "format": _FORMAT,
            "status": "running",
            "config": fingerprint(config),
            "data": data_fingerprint,
            "summary": None,
        }
        with atomic_folder(path) as folder:
            encoders.save(folder / "encoders")
            (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
            (folder / "versions.json").write_text(
                json.dumps(versions(), indent=2) + "\n", encoding="utf-8"
            )
            (folder / "checkpoints").mkdir()
            (folder / "run.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        return cls(path)

    @classmethod
    def prepare(
        cls, path: Path, config: RunConfig, *, data_fingerprint: str, overwrite: bool
    ) -> Run | None:
        """What `path` is for this training: nothing yet (None), or a run to go on with.

        Raises:
            SpecError: `path` holds a finished run, or something that is not a run.
            CheckpointError: `path` holds an interrupted run of another spec or other data.
        """
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return None
        if not (path / "run.json").is_file():
            raise SpecError(
                f"{path}: exists and is not a run. Choose another `--out`; nothing was changed."
            )
        if overwrite:
            return None
        run = cls(path)
        if run.finished:
            raise SpecError(
                f"{path}: this run is finished. Choose another `--out`, or pass `--overwrite` to "
                "train anew."
            )
        if run._state["config"] != fingerprint(config):
            raise CheckpointError(
                f"{path}: was started with another spec. Go on with the spec in "
                f"{path / 'config.yaml'}, choose another"
                " `--out`, or pass `--overwrite`."
            )
        if run._state["data"] != data_fingerprint:
            raise CheckpointError(
                f"{path}: was started on other data (files, sizes or footers differ). Restore the "
                "data, choose another"
                " `--out`, or pass `--overwrite`."
            )
        return run

    @property
    def finished(self) -> bool:
        """Whether training ended as the spec says."""
        return bool(self._state["status"] == "finished")

    @property
    def summary(self) -> dict[str, Any] | None:
        """What training returned, once it is finished."""
        summary: dict[str, Any] | None = self._state["summary"]
        return summary

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished."""
        self._state = {**self._state, "status": "finished", "summary": summary}
        write_json(self.path / "run.json", self._state)

    @cached_property
    def config(self) -> RunConfig:
        """The resolved config that the run was trained with."""
        file = self.path / "config.yaml"
        try:
            config = load_spec(file)
        except RecMTLError as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error
        except OSError as error:
            raise CheckpointError(
                f"{file}: is missing ({error.strerror}); {self.path} is not a whole run."
            ) from error
        if fingerprint(config) != self._state["config"]:
            raise CheckpointError(f"{file}: was changed after the run began; restore it.")
        return config

    @cached_property
    def encoders(self) -> Encoders:
        """The fitted encoders."""
        return Encoders.load(self.path / "encoders")

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def metric_lines(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, without a last one that a killed run left half-written."""
        file = self.path / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        parsed = []
        for number, line in enumerate(lines, start=1):
            try:
                parsed.append(json.loads(line))
            except json.JSONDecodeError as error:
                if number < len(lines):
                    raise CheckpointError(f"{file}:{number}: is not JSON ({error.msg}).") from error
        return parsed

    def _read_state(self) -> dict[str, Any]:
        file = self.path / "run.json"
        if not file.is_file():
            raise CheckpointError(
                f"{self.path}: is not a run folder (`run.json` is missing). Pass the `--out` of a "
                "`recmtl train`."
            )
        try:
            state = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{file}: is corrupt ({error}). Train again, or restore the file."
            ) from error
        expected = {"format", "status", "config", "data", "summary"}
        if not isinstance(state, dict) or set(state) != expected:
            raise CheckpointError(
                f"{file}: is not recmtl's (expected the keys {sorted(expected)})."
            )
        if state["format"] != _FORMAT:
            raise CheckpointError(
                f"{file}: has format {state['format']!r}, this version reads {_FORMAT}. Install a "
                "matching recmtl."
            )
        return state


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results, as far as they are there."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "recmtl": __version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def discard(path: Path) -> None:
    """Remove a run folder that is about to be trained anew: it is gone at once, or untouched."""
    folder = path.resolve()
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
    folder.rename(old)  # a removal that is killed half-way leaves no half of a run behind
    shutil.rmtree(old)
