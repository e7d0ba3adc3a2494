"""The folder of a study: what it was started on, and whose it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from recmtl._files import exclusive, require_writable, write_text
from recmtl.checkpoint.sealed import read_sealed, sealed
from recmtl.config import RunConfig, differences, dump_yaml, fingerprint, load_spec
from recmtl.errors import CheckpointError, SpecError
from recmtl.run import Run
from recmtl.studies.contestants import PlannedRun

__all__ = ["StudyFolder"]

_STATE = "study.json"
_FORMAT = 1
_WAY_OUT = "Choose another `--out`, or pass `--overwrite`"


class StudyFolder:
    """Where a study keeps its runs and what it found.

    Args:
        path: the folder.

    Attributes:
        what: what kind of study it holds.
        runs: name of the folder of the runs.
        began_with: name of the file with the spec that it was started with.
        folders: names of the folders that it fills.
        files: names of the files that it writes.
    """

    what: ClassVar[str] = "comparison"
    runs: ClassVar[str] = "runs"
    began_with: ClassVar[str] = "spec.yaml"
    folders: ClassVar[tuple[str, ...]] = ("runs", "specs", "logs", "predictions")
    files: ClassVar[tuple[str, ...]] = (
        *("compare.json", "compare.md", "compare.html"),
        *("spec.yaml", "rows.parquet"),
    )

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, name: str) -> Path:
        """Folder of a run."""
        return self.path / self.runs / name

    def spec(self, name: str) -> Path:
        """Spec file of a run."""
        return self.path / "specs" / f"{name}.yaml"

    def log(self, name: str) -> Path:
        """What a run said."""
        return self.path / "logs" / f"{name}.log"

    def predictions(self, name: str) -> Path:
        """What a run's model says of the test rows."""
        return self.path / "predictions" / f"{name}.parquet"

    def require_free(self) -> None:
        """Find out whether a study may go on, or begin, here; nothing is written.

        Raises:
            SpecError: it holds something else.
            OSError: nothing can be written there.
        """
        if self.path.is_dir() and any(self.path.iterdir()):
            if not self._is_own():
                raise SpecError(
                    f"{self.path}: exists and is no {self.what}. Choose another `--out`; nothing"
                    " was changed."
                )
            return
        require_writable(self.path)

    def begin(
        self,
        config: RunConfig,
        stamps: Mapping[str, str],
        settings: Mapping[str, int],
        *,
        overwrite: bool,
    ) -> Mapping[str, int]:
        """Note what the study is of, or find that it is the same as before.

        Args:
            config: the spec with its overrides.
            stamps: what else must stay as it is, by name: fingerprints.
            settings: what a later call takes over from the first one.
            overwrite: start anew.

        Returns:
            The settings of the first call.

        Raises:
            CheckpointError: it was started with another spec or on other data.
        """
        state = self.path / _STATE
        if overwrite:
            for name in self.folders:
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in (*self.files, _STATE):
                (self.path / name).unlink(missing_ok=True)
        config = self.decisive(config)
        now = {"format": f"{_FORMAT}", "spec": fingerprint(config), **stamps}
        if not state.is_file():
            write_text(self.path / self.began_with, dump_yaml(config))
            write_text(state, sealed({"what": self.what, **now, "settings": dict(settings)}))
            return settings
        before = read_sealed(state)
        if before.get("format") != now["format"]:
            raise CheckpointError(
                f"{state}: has format {before.get('format')!r}, this version reads {_FORMAT}."
                f" {_WAY_OUT}."
            )
        if before.get("spec") != now["spec"]:
            changed = differences(load_spec(self.path / self.began_with), config)
            raise CheckpointError(
                f"{self.path}: was started with another spec:"
                f" {', '.join(f'`{key}`' for key in changed[:10])} differ. Go on with the spec in"
                f" {self.path / self.began_with}, or {_WAY_OUT[0].lower()}{_WAY_OUT[1:]}."
            )
        for name in stamps:
            if before.get(name) != now[name]:
                raise CheckpointError(
                    f"{self.path}: was started on other {name} (files, sizes or footers differ)."
                    f" Restore the {name}, or {_WAY_OUT[0].lower()}{_WAY_OUT[1:]}."
                )
        recorded: Mapping[str, int] = before["settings"]
        return recorded

    def decisive(self, config: RunConfig) -> RunConfig:
        """The spec as far as no later call may change it: here, all but its seed."""
        return config.model_copy(update={"train": config.train.model_copy(update={"seed": 0})})

    def is_finished(self, planned: PlannedRun, data_fingerprint: str) -> bool:
        """Whether a run is there and complete.

        Raises:
            CheckpointError: it is of another spec or other data, or damaged.
        """
        folder = self.run(planned.name)
        if not folder.is_dir() or not any(folder.iterdir()):
            return False
        run = Run(folder)
        if fingerprint(run.config) != fingerprint(planned.config):
            changed = ", ".join(f"`{key}`" for key in differences(run.config, planned.config)[:10])
            raise CheckpointError(
                f"{folder}: was trained with another spec: {changed} differ. {_WAY_OUT}."
            )
        if run.data_fingerprint != data_fingerprint:
            raise CheckpointError(f"{folder}: was trained on other data. {_WAY_OUT}.")
        return run.finished

    def _is_own(self) -> bool:
        """Whether a study of this kind is here; one that is damaged may be any."""
        state = self.path / _STATE
        if not state.is_file():
            return False
        try:
            return bool(read_sealed(state).get("what", StudyFolder.what) == self.what)
        except CheckpointError:  # `begin` says so, or starts anew
            return _may_be_a_study(state)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only process that works in the folder.

        Raises:
            SpecError: another process does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path):
            yield


def _may_be_a_study(state: Path) -> bool:
    """Whether a file that cannot be trusted may be a study's, and not somebody's of that name."""
    try:
        found = json.loads(state.read_bytes())
    except ValueError:
        return True
    return isinstance(found, dict) and {"what", "format", "spec"} <= found.keys()
