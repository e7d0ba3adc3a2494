"""The folder of a backtest: days, runs, and what each run says of the day that follows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from recmtl._files import write_text
from recmtl.checkpoint.sealed import read_sealed, sealed
from recmtl.config import RunConfig
from recmtl.errors import CheckpointError
from recmtl.studies.days import day_file
from recmtl.studies.folder import StudyFolder

__all__ = ["DAYS", "UP_TO", "BacktestFolder"]

DAYS, UP_TO = "days", "up_to"
"""Folders of a file for each day, and of links to the files of all days up to one."""


class BacktestFolder(StudyFolder):
    """Where a backtest keeps its days, its runs and what it found."""

    what: ClassVar[str] = "backtest"
    folders: ClassVar[tuple[str, ...]] = ("runs", "specs", "logs", "metrics", DAYS, UP_TO)
    files: ClassVar[tuple[str, ...]] = (
        *("backtest.json", "backtest.md", "backtest.html"),
        *("spec.yaml", "question.json"),
    )

    @property
    def days(self) -> Path:
        """Folder of the files of days."""
        return self.path / DAYS

    def decisive(self, config: RunConfig) -> RunConfig:
        """The whole spec: runs have its seed."""
        return config

    def require_same_question(self, question: Mapping[str, Any]) -> None:
        """Note what is asked, or find that it is the same as before.

        Args:
            question: options of the command line, by their names.

        Raises:
            CheckpointError: something else was asked.
        """
        file = self.path / "question.json"
        if not file.is_file():
            write_text(file, sealed(question))
        before = read_sealed(file)
        changed = [f"`--{key} {value}`" for key, value in before.items() if question[key] != value]
        if changed:
            raise CheckpointError(
                f"{self.path}: was started with {', '.join(changed)}. Repeat that, choose another"
                " `--out`, or pass `--overwrite`."
            )

    def link_days(self, last: int) -> str:
        """Make a folder of links to the files of all days up to one; its path within this folder.

        Args:
            last: number of the last day.
        """
        name = f"{UP_TO}/{last:04d}"
        place = self.path / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(last + 1):
            link = place / day_file(number)
            if not link.is_symlink():
                link.symlink_to(Path("..", "..", DAYS, day_file(number)))
        return name

    def metrics(self, model: str, number: int) -> Path:
        """What a model is found to be worth on a day."""
        return self.path / "metrics" / f"{model}-on-{number:04d}.json"

    def discard(self, name: str) -> None:
        """Remove a run that nothing goes on from any more; what it said stays."""
        shutil.rmtree(self.run(name), ignore_errors=True)
