"""Towers side by side, over seeds, against baselines, with intervals."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recmtl._files import write_json, write_text
from recmtl._progress import Progress, no_progress
from recmtl.config import RunConfig, dump_yaml, fingerprint
from recmtl.data import open_splits
from recmtl.errors import SpecError
from recmtl.scoring import BatchScorer
from recmtl.studies.arguments import require_whole, to_nobody
from recmtl.studies.children import Failure, Job, error_of, train_all
from recmtl.studies.contestants import PlannedRun, contestants_of
from recmtl.studies.costs import cost_of
from recmtl.studies.folder import StudyFolder
from recmtl.studies.machine import cores, jobs_for, made_on
from recmtl.studies.pages import as_html, as_markdown
from recmtl.studies.predictions import GROUPS, TestRows, num_groups_of, predict
from recmtl.studies.resampling import Resamples
from recmtl.studies.standings import Judged, standings

__all__ = ["compare", "failure_code"]

_RESAMPLES = 1000
_MOST_SEEDS = 100


def compare(
    spec: str | Path | RunConfig,
    *,
    out: str | Path,
    data: str | Path | None = None,
    towers: Sequence[str] = (),
    objectives: Sequence[str] = (),
    seeds: int = 3,
    test: str | Path | None = None,
    baselines: bool = True,
    jobs: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = no_progress,
    notify: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every tower with every objective and seed, and say which of them can be told apart.

    Each run is one of `recmtl train` in a process of its own, in `out/runs/`. A call that was ended
    in any way goes on when it is repeated; more towers, objectives or seeds may be added later. The
    table is written to `out/compare.json`, `compare.md` and `compare.html`, and what each run says
    of each row to `out/predictions/`.

    Args:
        spec: a spec file, or a config that is loaded already.
        out: folder of the comparison.
        data: folder of the data (default: the folder of the spec file).
        towers: kinds of towers, such as ``["mmoe", "ple"]`` (default: that of the spec).
        objectives: `tasks`, `entire_space` (default: that of the spec).
        seeds: how many runs of each; `train.seed` is 0, 1, ...
        test: labelled rows to judge on: a file, folder or glob (default: the validation rows, by
            which checkpoints were chosen too).
        baselines: whether `single_task` (a model of its own for each task) and `additive` (logits
            linear in embeddings and numbers) take part.
        jobs: how many runs train at a time (default: as many as memory and cores allow).
        overrides: changes of the spec; `tower.KEY=VALUE` goes to each tower that has such a key.
        overwrite: start anew where `out` holds a comparison.
        progress: shows what is going on (see `recmtl._progress`).
        notify: told, in a sentence each, what was left out and which runs failed.

    Returns:
        What `compare.json` holds: `tasks`, `contestants` (each with its `tasks`: mean over seeds,
        `vs_single_task` and `vs_best` with their intervals and a `verdict`; and its `cost`), all
        metrics of all `runs`, `failed`, `left_out`, and how it came about.

    Raises:
        SpecError: the spec or an argument is wrong, or `out` holds something else.
        DataError: the data or the test rows do not fit the spec.
        CheckpointError: `out` was started with another spec or on other data, or is damaged.
        RecMTLError: no run came to its end.
    """
    folder, say = StudyFolder(Path(out)), notify or to_nobody
    require_whole("seeds", seeds, 1, _MOST_SEEDS)
    if jobs is not None:
        require_whole("jobs", jobs, 1, cores())
    base, contestants, left_out = contestants_of(
        spec, overrides, towers=towers, objectives=objectives, baselines=baselines
    )
    if test is None and base.data.valid is None:
        raise SpecError(
            "test: there is nothing to judge on, as the spec has no `data.valid`. Pass labelled"
            " rows, or give `data.valid`."
        )
    default = Path() if isinstance(spec, RunConfig) else Path(spec).parent
    data_dir = (default if data is None else Path(data)).absolute()
    folder.require_free()
    splits = open_splits(base, data_dir)
    rows = TestRows(base, data_dir, None if test is None else Path(test).absolute())
    log = rows.checked()
    planned = [run for contestant in contestants for run in contestant.runs(seeds)]
    with folder.held():
        at_once = jobs_for(base, splits.train.num_rows) if jobs is None else jobs
        at_once = min(at_once, len(planned))
        settings = folder.begin(
            base,
            {"data": splits.fingerprint, "test rows": log.fingerprint},
            {"jobs": at_once},
            overwrite=overwrite,
        )
        at_once = settings["jobs"] if jobs is None else at_once
        threads = max(1, cores() // at_once)
        groups = folder.path / GROUPS
        rows.write_groups(groups, log)
        for words in left_out:
            say(f"left out: {words}")
        finished = {run.name for run in planned if folder.is_finished(run, splits.fingerprint)}
        failures = train_all(
            [_job(run, folder) for run in planned if run.name not in finished],
            data_dir=data_dir,
            at_once=at_once,
            threads=threads,
            num_rows=splits.train.num_rows,
            num_done=len(finished),
            progress=progress,
        )
        for failure in failures:
            say(f"{failure.name} failed: {failure.message}")
        _require_some(planned, failures)
        failed = {failure.name for failure in failures}
        there = [run.name for run in planned if run.name not in failed]
        judged = {}
        with progress("score", log.num_rows * len(there), "rows") as bar:
            for name in there:
                scorer = BatchScorer(folder.run(name), keep=())
                found = predict(scorer, rows, folder.predictions(name), bar)
                cost = cost_of(scorer, log)
                judged[name] = Judged(folder.predictions(name), found["tasks"], cost)
        resamples = Resamples(num_groups_of(groups, log.num_rows), _RESAMPLES, seed=0)
        table = standings(
            contestants, base.tasks, judged, groups, resamples, seeds=seeds, progress=progress
        )
        summary = {
            "name": base.name,
            "seeds": seeds,
            "rows": {
                "is_validation": test is None,
                "path": None if test is None else str(test),
                "count": log.num_rows,
            },
            "groups": {"by": base.data.group_by, "count": resamples.num_groups},
            "resamples": _RESAMPLES,
            **table,
            "runs": {
                name: {"tasks": run.metrics, "cost": asdict(run.cost)}
                for name, run in judged.items()
            },
            "failed": [
                {"name": f.name, "message": f.message, "exit_code": f.exit_code} for f in failures
            ],
            "left_out": left_out,
            "jobs": at_once,
            "threads": threads,
            "training_rows": splits.train.num_rows,
            "command": _command(
                spec, data, towers, objectives, seeds, test, baselines, jobs, out, overrides
            ),
            **made_on(),
            "spec": fingerprint(base),
        }
        write_json(folder.path / "compare.json", summary)
        write_text(folder.path / "compare.md", as_markdown(summary))
        write_text(folder.path / "compare.html", as_html(summary))
    return summary


def failure_code(failed: Sequence[dict[str, Any]]) -> int:
    """What the command line exits with: the code that all failures share, else 1; 0 without any.

    Example:
        >>> failure_code([]), failure_code([{"exit_code": 3}, {"exit_code": 3}])
        (0, 3)
        >>> failure_code([{"exit_code": 3}, {"exit_code": 5}])
        1
    """
    codes = {int(failure["exit_code"]) for failure in failed}
    if not codes:
        return 0
    return codes.pop() if len(codes) == 1 else 1


def _job(run: PlannedRun, folder: StudyFolder) -> Job:
    """The run as a job; its spec is written where the child will read it."""
    write_text(folder.spec(run.name), dump_yaml(run.config))
    return Job(
        run.name,
        folder.spec(run.name),
        folder.run(run.name),
        folder.log(run.name),
        run.config.train.epochs,
    )


def _require_some(planned: Sequence[PlannedRun], failures: Sequence[Failure]) -> None:
    if len(failures) < len(planned):
        return
    said = dict.fromkeys(failure.message for failure in failures)
    code = failure_code([{"exit_code": failure.exit_code} for failure in failures])
    text = "\n".join(said)
    raise error_of(code)(f"None of {len(planned)} runs came to its end. What they said:\n{text}")


def _command(
    spec: str | Path | RunConfig,
    data: str | Path | None,
    towers: Sequence[str],
    objectives: Sequence[str],
    seeds: int,
    test: str | Path | None,
    baselines: bool,
    jobs: int | None,
    out: str | Path,
    overrides: Sequence[str],
) -> str:
    """The command line that does the same."""
    words = ["recmtl", "compare", spec.name if isinstance(spec, RunConfig) else str(spec)]
    words += ["--data", str(data)] if data is not None else []
    words += ["--towers", ",".join(dict.fromkeys(towers))] if towers else []
    words += ["--objectives", ",".join(objectives)] if objectives else []
    words += ["--seeds", f"{seeds}"]
    words += ["--test", str(test)] if test is not None else []
    words += [] if baselines else ["--no-baselines"]
    words += ["--jobs", f"{jobs}"] if jobs is not None else []
    return shlex.join([*words, "--out", str(out), *overrides])
