"""The folder of a study: what it was started on, and whose it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from recmtl._files import exclusive, require_writable, write_text
from recmtl.checkpoint.sealed import read_sealed, sealed
from recmtl.config import RunConfig, differences, dump_yaml, fingerprint, load_spec
from recmtl.errors import CheckpointError, SpecError
from recmtl.run import Run
from recmtl.studies.contestants import PlannedRun

__all__ = ["StudyFolder"]

_STATE, _SPEC = "study.json", "spec.yaml"
_FORMAT = 1
_FOLDERS = ("runs", "specs", "logs", "predictions")
_PAGES = ("compare.json", "compare.md", "compare.html")
_WAY_OUT = "Choose another `--out`, or pass `--overwrite`"


class StudyFolder:
    """Where a study keeps its runs and what it found.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, name: str) -> Path:
        """Folder of a run."""
        return self.path / "runs" / name

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
            if not (self.path / _STATE).is_file():
                raise SpecError(
                    f"{self.path}: exists and is no comparison. Choose another `--out`; nothing"
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
            config: the spec with its overrides; its seed does not count.
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
            for name in _FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in (*_PAGES, _SPEC, _STATE, "rows.parquet"):
                (self.path / name).unlink(missing_ok=True)
        unseeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": 0})})
        now = {"format": f"{_FORMAT}", "spec": fingerprint(unseeded), **stamps}
        if not state.is_file():
            write_text(self.path / _SPEC, dump_yaml(unseeded))
            write_text(state, sealed({**now, "settings": dict(settings)}))
            return settings
        before = read_sealed(state)
        if before.get("format") != now["format"]:
            raise CheckpointError(
                f"{state}: has format {before.get('format')!r}, this version reads {_FORMAT}."
                f" {_WAY_OUT}."
            )
        if before.get("spec") != now["spec"]:
            changed = differences(load_spec(self.path / _SPEC), unseeded)
            raise CheckpointError(
                f"{self.path}: was started with another spec:"
                f" {', '.join(f'`{key}`' for key in changed[:10])} differ. Go on with the spec in"
                f" {self.path / _SPEC}, or {_WAY_OUT[0].lower()}{_WAY_OUT[1:]}."
            )
        for name in stamps:
            if before.get(name) != now[name]:
                raise CheckpointError(
                    f"{self.path}: was started on other {name} (files, sizes or footers differ)."
                    f" Restore the {name}, or {_WAY_OUT[0].lower()}{_WAY_OUT[1:]}."
                )
        recorded: Mapping[str, int] = before["settings"]
        return recorded

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

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only process that works in the folder.

        Raises:
            SpecError: another process does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path):
            yield
