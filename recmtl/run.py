"""The run folder: all that training leaves and all that scoring needs.

- `config.yaml`: the resolved spec.
- `encoders/`: vocabularies and statistics.
- `checkpoints/`: see `recmtl.checkpoint`.
- `run.json`: state, fingerprints, and the sha256 of the other small files.
- `versions.json`: what it was trained with, for each time that training began or went on.
- `metrics.jsonl`: losses and metrics, a line each.
- `plan.txt`: how the tables were placed.
- `calibration.json`: calibrators of tasks, where the spec asks for them.
- `validation.json`, `report.html`: written when training ends, and by `recmtl report`.
- `reference.json`: what rows and scores looked like when training ended; drift is measured by it.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from recmtl import __version__
from recmtl._files import (
    atomic_folder,
    exclusive,
    is_name,
    recover,
    require_writable,
    sha256_of,
    sweep,
    sweep_within,
    write_text,
)
from recmtl.checkpoint import read_index, verify
from recmtl.checkpoint.manifest import read_json
from recmtl.checkpoint.sealed import is_sealed_page, read_sealed, sealed
from recmtl.config import RunConfig, differences, dump_yaml, fingerprint, load_spec
from recmtl.data import Encoders
from recmtl.errors import CheckpointError, RecMTLError, SpecError

__all__ = ["CALIBRATION", "REFERENCE", "REPORT", "Run", "read_calibration", "versions"]

REPORT = "report.html"
REFERENCE = "reference.json"
CALIBRATION = "calibration.json"
_FORMAT = 2
_STATE, _VERSIONS, _CONFIG = "run.json", "versions.json", "config.yaml"
_WARM_START = "warm_start"
_LATE = (
    *("plan.txt", "metrics.jsonl", CALIBRATION, "validation.json", REFERENCE, _VERSIONS),
    "checkpoints/index.json",
)
"""Files that are settled when training ends."""
_LOGS = ("logs", "tensorboard")
"""Folders that may be removed, but not changed."""
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
    """A run folder, opened, and its small files compared with their sha256.

    Vocabularies and tensors are compared when they are read; `verify` does it at once.

    Args:
        path: the folder.

    Raises:
        CheckpointError: the folder is not a run, or one of its files is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the run's state."""
        self.path = Path(path)
        self._is_new = False
        recover(self.path)
        self._state = self._read_state()
        self._check()

    @classmethod
    def create(
        cls,
        path: Path,
        config: RunConfig,
        encoders: Encoders,
        *,
        data_fingerprint: str,
        data_dir: str | Path | None = None,
        replace: bool = False,
        warm_start: Mapping[str, str] | None = None,
        begin: Callable[[Path], None] | None = None,
    ) -> Run:
        """Make a run folder with its config and encoders; it appears whole or not at all.

        Args:
            path: the folder.
            config: what is trained.
            encoders: fitted on the training rows.
            data_fingerprint: names the data.
            data_dir: where it is, where that is known; later reports look there.
            replace: take the place of a run that is there.
            warm_start: what it goes on from (see `Run.warm_start`).
            begin: writes a checkpoint that training begins with into the folder of checkpoints.

        Raises:
            SpecError: something is there, and is not to be replaced.
        """
        try:
            with ExitStack() as stack:
                if replace and path.is_dir():  # nobody may train what is about to be replaced
                    stack.enter_context(exclusive(path))
                folder = stack.enter_context(atomic_folder(path, replace=replace))
                encoders.save(folder / "encoders")
                (folder / _CONFIG).write_text(dump_yaml(config), encoding="utf-8")
                starts = [{"from": None, **_place(data_dir), **versions()}]
                (folder / _VERSIONS).write_text(sealed({"starts": starts}), encoding="utf-8")
                (folder / "checkpoints").mkdir()
                if begin is not None:
                    begin(folder / "checkpoints")
                state: dict[str, Any] = {
                    "format": _FORMAT,
                    "status": "running",
                    "config": fingerprint(config),
                    "data": data_fingerprint,
                    "summary": None,
                    "files": _sums(folder, (_CONFIG, "encoders/files.json")),
                }
                if warm_start is not None:
                    state[_WARM_START] = dict(warm_start)
                (folder / _STATE).write_text(sealed(state), encoding="utf-8")
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not path.is_dir():
                raise
            raise SpecError(f"{path}: exists by now. Choose another `--out`.") from error
        run = cls(path)
        run._is_new = True
        return run

    @classmethod
    def prepare(
        cls,
        path: Path,
        config: RunConfig,
        *,
        data_fingerprint: str,
        overwrite: bool,
        warm_start: Mapping[str, str] | None = None,
    ) -> Run | None:
        """What `path` is for this training: nothing yet (None), or a run to go on with.

        Raises:
            SpecError: `path` holds a finished run, or something that is not a run, or is to be
                overwritten while it is being trained.
            CheckpointError: `path` holds an interrupted run of another spec or other data, or one
                that goes on from something else.
            OSError: nothing can be written there.
        """
        recover(path)
        if path.is_symlink() and not path.exists():
            raise SpecError(f"{path}: is a link to nothing. Choose another `--out`.")
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            require_writable(path)
            return None
        if not (path / _STATE).is_file():
            raise SpecError(
                f"{path}: exists and is not a run. Choose another `--out`; nothing was changed."
            )
        if overwrite:
            with exclusive(path):
                return None
        run = cls(path)
        if run.finished:
            run.verify()
            raise SpecError(
                f"{path}: this run is finished. Choose another `--out`, or pass `--overwrite` to "
                "train anew."
            )
        if run._state["config"] != fingerprint(config):
            raise CheckpointError(
                f"{path}: was started with another spec: "
                f"{', '.join(f'`{key}`' for key in differences(run.config, config)[:10])} differ. "
                f"Go on with the spec in {path / 'config.yaml'} and the `--data` of the first call,"
                " choose another `--out`, or pass `--overwrite`."
            )
        if run._state["data"] != data_fingerprint:
            raise CheckpointError(
                f"{path}: was started on other data (files, sizes or footers differ). Restore the "
                "data, choose another"
                " `--out`, or pass `--overwrite`."
            )
        if _decisive(run.warm_start) != _decisive(warm_start):
            raise CheckpointError(
                f"{path}: was started {_how(run.warm_start)}, not {_how(warm_start)}. Repeat the"
                " first call, choose another `--out`, or pass `--overwrite`."
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

    @contextmanager
    def training(self, data_dir: str | Path | None = None) -> Iterator[None]:
        """Hold the run while it is trained; note with which versions it goes on, and on what data.

        Args:
            data_dir: folder of the data, where that is known.

        Raises:
            SpecError: another process trains it.
        """
        with exclusive(self.path):
            if not self._is_new:
                start = {"from": read_index(self.checkpoints).last, **_place(data_dir)}
                start |= versions()
                starts = [*read_sealed(self.path / _VERSIONS)["starts"], start]
                write_text(self.path / _VERSIONS, sealed({"starts": starts}))
            yield

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished, settle its files, and remove what killed processes left."""
        index = read_index(self.checkpoints)
        manifests = [f"checkpoints/{name}/files.json" for name in {*index} if name is not None]
        logs = [
            str(file.relative_to(self.path))
            for folder in _LOGS
            for file in (self.path / folder).rglob("*")
            if file.is_file()
        ]
        late = [name for name in (*_LATE, *logs) if (self.path / name).is_file()]
        self._state = {
            **self._state,
            "status": "finished",
            "summary": summary,
            "files": self._state["files"] | _sums(self.path, sorted([*late, *manifests])),
        }
        sweep_within(self.path)
        sweep(self.path)
        write_text(self.path / _STATE, sealed(self._state))

    def verify(self) -> None:
        """Compare every file with its sha256, those of all checkpoints too.

        Raises:
            CheckpointError: one is missing or damaged.
        """
        _ = self.encoders
        for name in sorted({name for name in read_index(self.checkpoints) if name is not None}):
            verify(self.checkpoints / name)

    @property
    def starts(self) -> list[dict[str, str | None]]:
        """The versions of each time that training began or went on, and `from` which checkpoint.

        `data` is the folder of the data, where it was known.
        """
        starts: list[dict[str, str | None]] = read_sealed(self.path / _VERSIONS)["starts"]
        return starts

    @property
    def data_dir(self) -> Path | None:
        """Where the data was when training began or went on for the last time."""
        named = [start["data"] for start in self.starts if start.get("data") is not None]
        return Path(str(named[-1])) if named else None

    @property
    def warm_start(self) -> dict[str, str] | None:
        """What it went on from, or None where it began with nothing.

        `run` is where that run was, `model` the fingerprint of its checkpoint, `optimizer_state`
        says whether the state of the optimizers was kept (`keep`) or not (`reset`).
        """
        found: dict[str, str] | None = self._state.get(_WARM_START)
        return found

    @property
    def data_fingerprint(self) -> str:
        """Names the training and validation rows (see `Splits.fingerprint`); empty if unknown."""
        return str(self._state["data"])

    def write_calibration(self, found: dict[str, Any]) -> None:
        """Keep what `recmtl.analysis.calibrate` found."""
        write_text(self.path / CALIBRATION, sealed(found))

    @property
    def calibration(self) -> dict[str, Any]:
        """What `recmtl.analysis.calibrate` found; empty where nothing was calibrated.

        Raises:
            CheckpointError: the file is damaged.
        """
        return read_calibration(self.path)

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
        folder = self.path / "encoders"
        encoders = Encoders.load(folder)
        listed = {"files.json", *read_json(folder / "files.json")}
        foreign = {file.name for file in folder.iterdir() if file.name[0] != "."} - listed
        if foreign:
            raise CheckpointError(
                f"{folder / min(foreign)}: is not listed in `files.json`; it was not written with "
                "these encoders. Remove it."
            )
        return encoders

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
        file = self.path / _STATE
        if not file.is_file():
            raise CheckpointError(
                f"{self.path}: is not a run folder (`run.json` is missing). Pass the `--out` of a "
                "`recmtl train`."
            )
        try:
            state = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{file}: is corrupt ({error}). Train again, or restore the file."
            ) from error
        if not isinstance(state, dict) or "format" not in state:
            raise CheckpointError(f"{file}: is not recmtl's (it has no `format`).")
        if state["format"] != _FORMAT:
            raise CheckpointError(
                f"{file}: has format {state['format']!r}, this version reads {_FORMAT}. Train "
                "again, or install the recmtl that wrote it."
            )
        state = read_sealed(file)
        expected = {"format", "status", "config", "data", "summary", "files"}
        if set(state) - {_WARM_START} != expected or not _is_warm_start(state.get(_WARM_START)):
            raise CheckpointError(
                f"{file}: is not recmtl's (expected the keys {sorted(expected)})."
            )
        return state

    def _check(self) -> None:
        problems = []
        read_sealed(self.path / _VERSIONS)
        files = self._state["files"]
        if not isinstance(files, dict) or not all(map(_is_inside, files)):
            raise CheckpointError(
                f"{self.path / _STATE}: names files outside the run; it was not written by recmtl."
            )
        for name, recorded in files.items():
            file = self.path / name
            if not file.is_file():
                if name.split("/")[0] not in _LOGS:
                    problems.append(f"{file}: is missing. Restore it, or train again.")
            elif sha256_of(file) != recorded:
                problems.append(
                    f"{file}: its sha256 is not the recorded one; it was changed or damaged. "
                    "Restore it, or train again."
                )
        page = self.path / REPORT
        if page.is_file() and not is_sealed_page(page.read_bytes()):
            problems.append(
                f"{page}: was changed or damaged. Remove it; `recmtl report` writes it anew."
            )
        if problems:
            raise CheckpointError.all_of(problems)


def _is_warm_start(value: object) -> bool:
    """Whether a value read from a file says what a run went on from, or is None."""
    keys = {"run", "model", "optimizer_state"}
    if not isinstance(value, dict):
        return value is None
    return value.keys() == keys and all(isinstance(text, str) for text in value.values())


def _decisive(warm_start: Mapping[str, str] | None) -> dict[str, str]:
    """What of it decides results: not where the run was."""
    return {key: text for key, text in (warm_start or {}).items() if key != "run"}


def _how(warm_start: Mapping[str, str] | None) -> str:
    if warm_start is None:
        return "without `--warm-start`"
    return (
        f"with `--warm-start {warm_start['run']} --optimizer-state"
        f" {warm_start['optimizer_state']}` (model {warm_start['model'][:12]})"
    )


def _place(data_dir: str | Path | None) -> dict[str, str]:
    return {} if data_dir is None else {"data": str(Path(data_dir).absolute())}


def _sums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in names}


def read_calibration(folder: Path) -> dict[str, Any]:
    """What `recmtl.analysis.calibrate` kept in a run, or an export of one; empty without it.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / CALIBRATION
    return read_sealed(file) if file.is_file() else {}


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


def _is_inside(name: object) -> bool:
    """Whether a name read from a file leads to something below its folder."""
    return isinstance(name, str) and all(map(is_name, name.split("/")))
