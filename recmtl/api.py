"""train, evaluate, explain, score and export: what the command line does, in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recmtl._progress import Progress, no_progress
from recmtl.config import RunConfig, load_spec
from recmtl.errors import CheckpointError, SpecError

if TYPE_CHECKING:
    from recmtl.data import Splits
    from recmtl.exporting import ExportedScorer, ExportResult
    from recmtl.run import Run
    from recmtl.scoring import ScoreResult
    from recmtl.training import TrainResult
    from recmtl.training.warm_start import WarmStart

__all__ = ["evaluate", "explain", "export", "load_export", "score", "train", "verify"]


def train(
    spec: str | Path | RunConfig,
    *,
    data: str | Path | None = None,
    out: str | Path,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    warm_start: str | Path | None = None,
    optimizer_state: Literal["keep", "reset"] | None = None,
    progress: Progress = no_progress,
    notify: Callable[[str], None] | None = None,
) -> TrainResult:
    """Fit encoders, train, and keep the best checkpoint in the run folder `out`.

    A run that was interrupted is continued. Nothing is written before versions, spec and data
    are found to be right. With `train.devices` this process is the first of so many, and starts
    the others; under `torchrun` every process calls this, and gets the result.

    With `warm_start` a run goes on from the model of a finished one, on other rows: ids keep their
    table rows and new ones follow, dense statistics, borders and hashes stay, and the weights of
    the best checkpoint are where training begins.

    Args:
        spec: a spec file, or a config that is loaded already.
        data: folder of the data (default: the folder of the spec file).
        out: folder of the run.
        overrides: changes of the spec, such as ``"tower=ple"``.
        overwrite: train anew where `out` holds a run already.
        warm_start: a finished run to go on from; it stays as it is.
        optimizer_state: of a warm start: whether the state of the optimizers is taken over
            (``"keep"``, the default) or begins anew (``"reset"``).
        progress: shows what is going on (see `recmtl._progress`).
        notify: told, in a sentence each, what `recmtl doctor` would warn of, how many processes
            train, and what is not as the spec asks (`train.compile` where it cannot work).

    Raises:
        SpecError: the spec or an override is wrong, or `out` holds a finished run or something
            else.
        DataError: the data does not fit the spec, or leaks a label.
        CheckpointError: `out` holds an interrupted run of another spec or other data; or the run
            to go on from is damaged, not finished, or of another model than the spec describes.
        MissingExtraError: TorchRec, FBGEMM or Lightning is missing or does not fit.
    """
    import torch

    from recmtl.analysis import calibrate
    from recmtl.analysis.reference import keep_reference
    from recmtl.embeddings.optim import require_optimizer
    from recmtl.report import summarise
    from recmtl.run import Run
    from recmtl.training import fit, require_loggers
    from recmtl.training.launch import led_team
    from recmtl.training.team import require_devices
    from recmtl.training.torchrun import follow, leading, torchrun_team
    from recmtl.training.warm_start import WarmStart

    out = Path(out)
    with torchrun_team() as started:
        _require_warm_start(out, warm_start, optimizer_state)
        config, data_dir = resolve(spec, data, overrides)
        devices = require_devices(config.train.devices, started)
        require_optimizer(config.train.embedding, "cuda" if torch.cuda.is_available() else "cpu")
        require_loggers(config)
        if started is not None and started.rank > 0:
            follow(started)
            return fit(config, Run(out).encoders, data_dir=data_dir, folder=out, team=started)
        source: WarmStart | Run | None = None
        if warm_start is not None:
            state = optimizer_state or "keep"
            source = None if overwrite else _begun(out, Path(warm_start), state)
            source = source or WarmStart.open(warm_start, config, state)
        run, splits = _prepared(config, data_dir, out, overwrite, source, progress, notify)
        with run.training(data_dir):
            with (
                led_team(out, data_dir, devices=devices, sharding=config.train.sharding)
                if started is None
                else leading(started)
            ) as team:
                if notify is not None and devices > 1:
                    notify(f"{team}")
                result = fit(
                    config,
                    run.encoders,
                    data_dir=data_dir,
                    folder=out,
                    progress=progress,
                    team=team,
                    notify=notify,
                )
            if splits.valid is not None:
                calibrate(run, splits.valid, progress=progress, notify=notify)
                summarise(run, splits.valid, progress=progress)
            keep_reference(run, splits)
            summary = {"best": result.best, "rows_per_s": result.rows_per_s}
            run.finish({**summary, "epochs": result.epochs})
    return result


def _prepared(
    config: RunConfig,
    data_dir: Path,
    out: Path,
    overwrite: bool,
    source: WarmStart | Run | None,
    progress: Progress,
    notify: Callable[[str], None] | None,
) -> tuple[Run, Splits]:
    """The run to train: an interrupted one, or a new one on data that was found to be right."""
    from recmtl.data import Encoders, open_splits
    from recmtl.doctor import encode_all, require_healthy, require_model
    from recmtl.run import Run
    from recmtl.training.warm_start import WarmStart

    before = record = None
    if isinstance(source, Run):
        before, record = source.encoders, source.warm_start
    elif source is not None:
        before, record = source.run.encoders, source.record
    splits = open_splits(
        config,
        data_dir,
        families=None if before is None else before.families,
        lists=() if before is None else before.bags,
    )
    run = Run.prepare(
        out,
        config,
        data_fingerprint=splits.fingerprint,
        overwrite=overwrite,
        warm_start=record,
    )
    if run is not None:
        return run, splits
    train = splits.train
    if notify is not None and train.left_out:
        total = train.num_rows + train.left_out
        notify(f"`data.sample` keeps {train.num_rows:,} of {total:,} training rows.")
    for finding in require_healthy(config, splits):
        if notify is not None and finding.severity == "warning":
            notify(str(finding))
    encoders = Encoders.fit(config, train=splits.train, before=before, progress=progress)
    require_model(config, encoders)
    if splits.valid is not None:
        encode_all(encoders, splits.valid, progress=progress)
    begin = None
    if isinstance(source, WarmStart):
        begin = partial(source.write, encoders=encoders, config=config)
        if notify is not None:
            grown = ", ".join(source.grown(encoders)) or "no table"
            notify(f"goes on from {source.checkpoint}; grew: {grown}")
    return Run.create(
        out,
        config,
        encoders,
        data_fingerprint=splits.fingerprint,
        data_dir=data_dir,
        replace=overwrite,
        warm_start=record,
        begin=begin,
    ), splits


def _begun(out: Path, warm_start: Path, optimizer_state: str) -> Run | None:
    """The interrupted run in `out`, where what it goes on from was removed since."""
    from recmtl.run import Run

    if warm_start.exists():
        return None
    try:
        run = Run(out)
    except CheckpointError:  # nothing is there: what is missing is the run to go on from
        return None
    began = run.warm_start or {}
    named = (began.get("run"), began.get("optimizer_state"))
    return run if named == (str(warm_start.absolute()), optimizer_state) else None


def _require_warm_start(
    out: Path, warm_start: str | Path | None, optimizer_state: str | None
) -> None:
    """Refuse a warm start that cannot be meant."""
    if optimizer_state not in (None, "keep", "reset"):
        raise SpecError(f"optimizer_state: must be `keep` or `reset`, got {optimizer_state!r}.")
    if warm_start is None and optimizer_state is not None:
        raise SpecError(
            "optimizer_state: there is no state of optimizers to keep or to reset without"
            " `warm_start`. Leave it out, or pass `warm_start`."
        )
    if warm_start is not None and Path(warm_start).absolute() == out.absolute():
        raise SpecError(
            f"{out}: a run cannot go on from itself. Choose another `--out` for the new one."
        )


def evaluate(
    run: str | Path,
    data: Any,
    *,
    by: str | None = None,
    sampled: bool = False,
    calibrated: bool = True,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Metrics of a run on labelled rows; see `recmtl.scoring.evaluate`."""
    from recmtl.scoring import evaluate as evaluate_run

    return evaluate_run(run, data, by=by, sampled=sampled, calibrated=calibrated, progress=progress)


def explain(
    run: str | Path,
    rows: Any,
    *,
    row: int = 0,
    task: str | None = None,
    reference: Any = None,
    num_reference: int = 64,
) -> dict[str, Any]:
    """What each feature of one row does to its predictions; see `recmtl.analysis.explain`."""
    from recmtl.analysis import explain as explain_row

    return explain_row(
        run, rows, row=row, task=task, reference=reference, num_reference=num_reference
    )


def score(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    keep: Sequence[str] = (),
    tables: Literal["fp32", "fp16", "int8"] = "fp32",
    calibrated: bool = True,
    workers: int = 1,
    drift_threshold: float = 0.2,
    progress: Progress = no_progress,
) -> ScoreResult:
    """Write the scores of a log as Parquet parts; see `recmtl.scoring.score`."""
    from recmtl.scoring import score as score_run

    return score_run(
        run,
        data,
        out,
        keep=keep,
        tables=tables,
        calibrated=calibrated,
        workers=workers,
        drift_threshold=drift_threshold,
        progress=progress,
    )


def export(
    run: str | Path,
    out: str | Path,
    *,
    format: Literal["safetensors", "torch-export", "aoti", "onnx"],  # noqa: A002
    tables: Literal["fp32", "fp16", "int8", "int4"] = "fp32",
    data: str | Path | None = None,
    calibrated: bool = True,
    progress: Progress = no_progress,
    notify: Callable[[str], None] | None = None,
) -> ExportResult:
    """Write a run into a folder as something that can be served, with a certificate.

    The folder appears whole or not at all, and holds the model, the encoders, a description of its
    inputs and outputs, a golden batch, and what the exported model says of it.

    Args:
        run: the folder of a run.
        out: the folder of the export; new, or empty.
        format: `safetensors`, all tensors by their names; `torch-export`, a graph that PyTorch
            loads; `aoti`, machine code for this kind of CPU, loaded from C++ or Python; `onnx`.
        tables: how embedding rows are kept: as they were trained, as halves, or in 8 or 4 bits with
            a scale and an offset a row.
        data: folder of the data with the run's validation rows, for the golden batch and for what
            smaller tables cost (default: where it was in training; where they are not there, golden
            rows are drawn from the vocabularies).
        calibrated: whether the run's calibrators become part of the model.
        progress: shows the rows done (see `recmtl._progress`).
        notify: told in a sentence that there are no validation rows, and why.

    Raises:
        SpecError: `format` or `tables` is unknown, the run cannot be written in this format, or
            `out` holds something.
        DataError: `data` is given and does not hold the run's validation rows.
        MissingExtraError: what the format needs is not installed.
        CheckpointError: the run is corrupt.
    """
    from recmtl.analysis.rows import NoRowsError, validation_log
    from recmtl.exporting import export_run
    from recmtl.scoring import BatchScorer

    scorer = BatchScorer(run, keep=(), calibrated=calibrated)
    try:
        valid = validation_log(scorer.run, data)
    except NoRowsError as error:
        valid = None
        if notify is not None:
            notify(f"{error} Golden rows are drawn from the vocabularies.")
    return export_run(scorer, out, format=format, tables=tables, valid=valid, progress=progress)


def verify(folder: str | Path) -> dict[str, Any]:
    """Check every byte of an export, and what it says; see `recmtl.exporting.verify_export`."""
    from recmtl.exporting import verify_export

    return verify_export(folder)


def load_export(folder: str | Path, *, keep: Sequence[str] = ()) -> ExportedScorer:
    """An export as a callable on rows; see `recmtl.exporting.ExportedScorer`."""
    from recmtl.exporting import ExportedScorer

    return ExportedScorer(folder, keep=keep)


def resolve(
    spec: str | Path | RunConfig, data: str | Path | None, overrides: Sequence[str]
) -> tuple[RunConfig, Path]:
    """The config that a call means, and the folder of its data."""
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise SpecError(
            f"overrides: must be a list of texts such as ['tower=ple'], got {overrides!r}."
        )
    if not isinstance(spec, str | Path | RunConfig):
        raise SpecError(
            f"spec: must be the path of a spec file or a RunConfig, got a {type(spec).__name__}."
        )
    if isinstance(spec, RunConfig):
        if overrides:
            raise SpecError(
                "overrides: a config that is loaded already takes none; pass them to `load_spec`."
            )
        return spec, Path(data) if data is not None else Path()
    return load_spec(spec, overrides), Path(data) if data is not None else Path(spec).parent
