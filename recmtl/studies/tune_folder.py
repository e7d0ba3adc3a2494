"""The folder of a search: its trials, of which the best keeps its checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from recmtl._files import write_text
from recmtl.config import RunConfig
from recmtl.errors import CheckpointError
from recmtl.spec.yaml_loader import read_document
from recmtl.studies.folder import StudyFolder
from recmtl.studies.search import SearchKey
from recmtl.studies.search_file import as_search_file

__all__ = ["TuneFolder", "with_absolute_paths"]

_HEAD = "What was searched; it can be changed and given to `recmtl tune --search`."
_HEAVY = ("run.json", "reference.json", "checkpoints", "encoders", "logs", "tensorboard")


class TuneFolder(StudyFolder):
    """Where a search keeps its trials and what it found."""

    what: ClassVar[str] = "search"
    runs: ClassVar[str] = "trials"
    began_with: ClassVar[str] = "began_with.yaml"
    folders: ClassVar[tuple[str, ...]] = ("trials", "specs", "logs")
    files: ClassVar[tuple[str, ...]] = (
        *("tune.json", "tune.md", "tune.html"),
        *("spec.yaml", "began_with.yaml", "search.yaml", "trials.jsonl"),
    )

    @property
    def trials(self) -> Path:
        """The lines about trials."""
        return self.path / "trials.jsonl"

    @property
    def best(self) -> Path:
        """The best spec."""
        return self.path / "spec.yaml"

    def decisive(self, config: RunConfig) -> RunConfig:
        """The whole spec: trials have its seed."""
        return config

    def require_same_search(self, keys: Sequence[SearchKey], seed: int, first_seed: int) -> None:
        """Note what is searched, or find that it is the same as before.

        Args:
            keys: what is searched.
            seed: of the proposals.
            first_seed: that of the first call.

        Raises:
            CheckpointError: something else was searched.
        """
        file = self.path / "search.yaml"
        if not file.is_file():
            write_text(file, as_search_file(keys, _HEAD))
        before = read_document(file.read_text(encoding="utf-8")).data
        now = read_document(as_search_file(keys, _HEAD)).data
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        changed += ["--seed"] if seed != first_seed else []
        if changed:
            raise CheckpointError(
                f"{self.path}: was started with another search:"
                f" {', '.join(f'`{key}`' for key in changed[:10])} differ. Repeat the first call's"
                f" `--search` and `--seed` ({first_seed}); {file} has what was searched. Or choose"
                " another `--out`, or pass `--overwrite`."
            )

    def lighten(self, name: str) -> None:
        """Take from a trial what only its own scoring needs; its figures and its spec stay."""
        for part in _HEAVY:  # the state first: what is left is no run
            place = self.run(name) / part
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)

    def discard(self, name: str) -> None:
        """Remove what a trial left that failed; what it said stays."""
        shutil.rmtree(self.run(name), ignore_errors=True)


def with_absolute_paths(config: RunConfig, data_dir: Path) -> RunConfig:
    """The spec with data files that are found from anywhere."""
    changes: dict[str, Any] = {"train": str(data_dir / config.data.train)}
    if isinstance(config.data.valid, str):
        changes["valid"] = str(data_dir / config.data.valid)
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})
