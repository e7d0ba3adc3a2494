"""Day by day: score a day with what was trained up to it, then train on it, and so on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from recmtl._files import write_json, write_text
from recmtl._progress import Progress, no_progress
from recmtl.config import RunConfig, fingerprint
from recmtl.errors import SpecError
from recmtl.studies.arguments import require_whole, to_nobody
from recmtl.studies.backtest_folder import BacktestFolder
from recmtl.studies.backtest_pages import as_html, as_markdown
from recmtl.studies.backtest_runs import FRESH, FROZEN, WARM, BacktestRuns
from recmtl.studies.backtest_table import by_day, over_days
from recmtl.studies.contestants import loaded_spec
from recmtl.studies.days import find_days, open_days, write_days
from recmtl.studies.machine import made_on

__all__ = ["backtest"]

_MOST_FIRST = 399


def backtest(
    spec: str | Path | RunConfig,
    *,
    by: str,
    out: str | Path,
    data: str | Path | None = None,
    warm: bool = True,
    fresh: bool = False,
    first: int = 1,
    optimizer_state: Literal["keep", "reset"] = "keep",
    overrides: Sequence[str] = (),
    keep: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
    notify: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score each day of a log with what was trained up to the day before, then train on it.

    `frozen`, the model of the first days, is scored on every later day beside `warm`, which goes on
    from its model of the day before on each day's rows, and `fresh`, which is trained anew each day
    on all rows so far. Each training is one of `recmtl train` in a process of its own, in
    `out/runs/`. A call that was ended in any way goes on when it is repeated; `fresh` may be added
    later. The table is written to `out/backtest.json`, `backtest.md` and `backtest.html`.

    Args:
        spec: a spec file, or a config that is loaded already. All rows are those of `data.train`;
            `data.valid` is not read, since the next day judges; nothing is chosen by it, and no
            task is calibrated.
        by: column of the day: dates, integers or strings.
        out: folder of the backtest.
        data: folder of the data (default: the folder of the spec file).
        warm: whether `warm` takes part.
        fresh: whether `fresh` takes part.
        first: how many days the first model is trained on.
        optimizer_state: whether a warm start keeps the state of the optimizers.
        overrides: changes of the spec.
        keep: keep the runs of all days, not of those alone that something goes on from.
        overwrite: start anew where `out` holds a backtest.
        progress: shows what is going on (see `recmtl._progress`).
        notify: told, in a sentence each, what there is to know about the days.

    Returns:
        What `backtest.json` holds: `days` (each scored one with its `rows` and the metrics by task
        and contestant), `tasks` (the metric, its `means` over days, and `vs_frozen` with intervals
        over days), what there is to know about the days, and how it came about.

    Raises:
        SpecError: the spec or an argument is wrong, or `out` holds something else.
        DataError: the data does not fit the spec, or its days are too few.
        CheckpointError: `out` was started with another spec, on other data or otherwise, or is
            damaged.
        RecMTLError: a model could not be trained.
    """
    folder, say = BacktestFolder(Path(out)), notify or to_nobody
    require_whole("first", first, 1, _MOST_FIRST)
    if optimizer_state not in ("keep", "reset"):
        raise SpecError(f"optimizer_state: must be `keep` or `reset`, got {optimizer_state!r}.")
    contestants = [FROZEN, *([WARM] if warm else []), *([FRESH] if fresh else [])]
    if len(contestants) == 1:
        raise SpecError("warm: there is nothing to compare with. Let `warm` or `fresh` take part.")
    base = _without_validation(loaded_spec(spec, overrides))
    default = Path() if isinstance(spec, RunConfig) else Path(spec).parent
    data_dir = (default if data is None else Path(data)).absolute()
    folder.require_free()
    log = open_days(base, data_dir, by)
    found = find_days(log, by, least=first + 1)
    notes = list(_notes(found.missing, found.num_null, by))
    for note in notes:
        say(note)
    with folder.held():
        folder.begin(base, {"data": log.fingerprint}, {}, overwrite=overwrite)
        folder.require_same_question({"by": by, "first": first, "optimizer-state": optimizer_state})
        if not folder.days.is_dir():
            write_days(log, found.days, by, base, folder.days, progress)
        runs = BacktestRuns(
            folder,
            base,
            found.days,
            contestants=contestants,
            first=first,
            optimizer_state=optimizer_state,
            keep=keep,
        )
        scored = by_day(runs.judge(progress), found.days)
        summary = {
            "name": base.name,
            "by": by,
            "contestants": contestants,
            "first_days": [day.name for day in found.days[:first]],
            "optimizer_state": optimizer_state,
            "days": scored,
            "tasks": over_days(scored, base, contestants),
            "notes": notes,
            "command": _command(
                spec, data, by, warm, fresh, first, optimizer_state, keep, out, overrides
            ),
            **made_on(),
            "spec": fingerprint(base),
        }
        write_json(folder.path / "backtest.json", summary)
        write_text(folder.path / "backtest.md", as_markdown(summary))
        write_text(folder.path / "backtest.html", as_html(summary))
    return summary


def _without_validation(config: RunConfig) -> RunConfig:
    """The spec as each day is trained: nothing is chosen by validation rows, or fitted to them."""
    data = config.data.model_copy(update={"valid": None})
    train = config.train.model_copy(update={"monitor": None, "patience": None})
    tasks = tuple(task.model_copy(update={"calibration": "none"}) for task in config.tasks)
    return config.model_copy(update={"data": data, "train": train, "tasks": tasks})


def _notes(missing: Sequence[str], num_null: int, by: str) -> list[str]:
    """What there is to know about the days."""
    found = []
    if num_null:
        found.append(f"{num_null:,} rows have no `{by}`; they are left out.")
    if missing:
        some, more = ", ".join(missing[:10]), len(missing) - 10
        found.append(
            f"No rows of {some}{f' and {more} more gaps' if more > 0 else ''}: the day after is"
            " scored with what was trained up to the last day before."
        )
    return found


def _command(
    spec: str | Path | RunConfig,
    data: str | Path | None,
    by: str,
    warm: bool,
    fresh: bool,
    first: int,
    optimizer_state: str,
    keep: bool,
    out: str | Path,
    overrides: Sequence[str],
) -> str:
    """The command line that does the same."""
    words = ["recmtl", "backtest", spec.name if isinstance(spec, RunConfig) else str(spec)]
    words += ["--data", str(data)] if data is not None else []
    words += ["--by", by, "--first", f"{first}", "--optimizer-state", optimizer_state]
    words += [*([] if warm else ["--no-warm"]), *(["--fresh"] if fresh else [])]
    words += ["--keep"] if keep else []
    return shlex.join([*words, "--out", str(out), *overrides])
