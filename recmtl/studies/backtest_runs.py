"""The models of a backtest: trained one after the other, each judged on the day that follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recmtl._files import write_text
from recmtl._progress import Bar, Progress
from recmtl.checkpoint import best, fingerprint
from recmtl.checkpoint.sealed import read_sealed, sealed
from recmtl.config import RunConfig, dump_yaml
from recmtl.data import open_splits
from recmtl.run import Run
from recmtl.scoring import evaluate
from recmtl.studies.backtest_folder import DAYS, BacktestFolder
from recmtl.studies.children import Children, Failure, Job, error_of
from recmtl.studies.contestants import PlannedRun
from recmtl.studies.days import Day, day_file
from recmtl.studies.machine import cores

__all__ = ["FRESH", "FROZEN", "WARM", "BacktestRuns"]

FROZEN, WARM, FRESH = "frozen", "warm", "fresh"


@dataclass(frozen=True)
class _Model:
    """What a contestant has learned when a day is over.

    Attributes:
        name: of its run.
        last: number of the last day that it was trained on.
        config: its spec.
        rows: that it is trained on.
        before: the model that it goes on from.
    """

    name: str
    last: int
    config: RunConfig
    rows: int
    before: _Model | None = None


class BacktestRuns:
    """Trains the contestants day by day, and judges each on the day after.

    `frozen` is trained on the first days alone; `warm` goes on from its model of the day before, on
    the rows of the day; `fresh` is trained anew on all rows so far. All of them begin as `frozen`.

    Args:
        folder: of the backtest; the files of days are there.
        config: the spec, without validation rows.
        days: all days.
        contestants: `frozen`, and which of `warm` and `fresh`.
        first: how many days the first model is trained on.
        optimizer_state: whether a warm start keeps the state of the optimizers.
        keep: whether runs stay that nothing goes on from any more.
    """

    def __init__(
        self,
        folder: BacktestFolder,
        config: RunConfig,
        days: Sequence[Day],
        *,
        contestants: Sequence[str],
        first: int,
        optimizer_state: Literal["keep", "reset"],
        keep: bool,
    ) -> None:
        self._folder, self._config, self._days = folder, config, days
        self._contestants, self._first = contestants, first
        self._optimizer_state, self._keep = optimizer_state, keep
        self._frozen = self._model(FROZEN, first - 1, all_so_far=True)

    def judge(self, progress: Progress) -> dict[int, dict[str, dict[str, Any]]]:
        """By number of the day and contestant, what `recmtl eval` says; models are trained for it.

        Raises:
            RecMTLError: a model could not be trained, of the kind that its training ended with.
        """
        plan = list(self._plan())
        all_models = {model.name: model for _, by in plan for model in by.values()}
        scored = {(number, model.name) for number, by in plan for model in by.values()}
        total = sum(self._training_rows(model) for model in all_models.values())
        total += sum(self._days[number].rows for number, _ in scored)
        found: dict[int, dict[str, dict[str, Any]]] = {}
        with progress("backtest", total, "rows") as bar:
            for number, models in plan:
                bar.advance(0, day=self._days[number].name)
                each = {model.name: model for model in models.values()}
                judged = {name: self._judged(model, number, bar) for name, model in each.items()}
                found[number] = {who: judged[model.name] for who, model in models.items()}
        return found

    def _plan(self) -> Iterator[tuple[int, dict[str, _Model]]]:
        """Each day to be scored, with the model of each contestant that scores it."""
        models = dict.fromkeys(self._contestants, self._frozen)
        for number in range(self._first, len(self._days)):
            yield number, dict(models)
            if WARM in models:
                models[WARM] = self._model(WARM, number, before=models[WARM])
            if FRESH in models:
                models[FRESH] = self._model(FRESH, number, all_so_far=True)

    def _model(
        self, who: str, last: int, *, before: _Model | None = None, all_so_far: bool = False
    ) -> _Model:
        place = f"{DAYS}/{day_file(last)}"
        if all_so_far and last > 0:
            place = self._folder.link_days(last)
        data = self._config.data.model_copy(update={"train": place})
        config = self._config.model_copy(update={"data": data})
        days = self._days[0 if all_so_far else last : last + 1]
        rows = sum(day.rows for day in days)
        return _Model(FROZEN if who == FROZEN else f"{who}-{last:04d}", last, config, rows, before)

    def _training_rows(self, model: _Model) -> int:
        return model.rows * model.config.train.epochs

    def _judged(self, model: _Model, number: int, bar: Bar) -> dict[str, Any]:
        """What a model is worth on a day; read, where that was found before."""
        file = self._folder.metrics(model.name, number)
        left = self._days[number].rows
        if number == model.last + 1:
            left += self._training_rows(model)
        if not file.is_file():
            left -= self._train(model, bar)
            write_text(file, sealed(self._evaluated(model, number)))
        bar.advance(left)
        return read_sealed(file)

    def _evaluated(self, model: _Model, number: int) -> dict[str, Any]:
        run = self._folder.run(model.name)
        rows = self._folder.days / day_file(number)
        is_thinned = self._config.data.sampled is not None
        found = evaluate(run, rows, sampled=is_thinned)
        said = {"model": fingerprint(best(Run(run).checkpoints))}
        return said | {key: found[key] for key in ("rows", "tasks", "contradictions")}

    def _train(self, model: _Model, bar: Bar) -> int:
        """Train a model, unless it is; how many rows the bar was told of."""
        folder, planned, shown = self._folder, _planned(model), 0
        fingerprint_of_data = open_splits(model.config, folder.path).fingerprint
        if not folder.is_finished(planned, fingerprint_of_data):
            if model.before is not None:
                self._train(model.before, bar)
            shown = self._run_child(model, bar)
        before = model.before
        if before is not None and before is not self._frozen and not self._keep:
            folder.discard(before.name)  # nothing goes on from it any more
        return shown

    def _run_child(self, model: _Model, bar: Bar) -> int:
        """Train a model in a process of its own; how many rows the bar was told of."""
        folder, shown = self._folder, 0
        write_text(folder.spec(model.name), dump_yaml(model.config))
        job = Job(
            model.name,
            folder.spec(model.name),
            folder.run(model.name),
            folder.log(model.name),
            model.config.train.epochs,
            self._arguments(model),
        )
        failures: list[Failure] = []
        with Children(folder.path, threads=cores(), num_rows=model.rows) as children:
            children.start(job)
            while children:
                failures += [one.failure for one in children.wait() if one.failure is not None]
                rows = sum(rows for _, rows in children.new_rows())
                bar.advance(rows, **({"now": children.now()} if children else {}))
                shown += rows
        if failures:
            day = self._days[model.last].name
            raise error_of(failures[0].exit_code)(
                f"{model.name} could not be trained up to the day {day}:\n{failures[0].message}"
            )
        return shown

    def _arguments(self, model: _Model) -> tuple[str, ...]:
        if model.before is None:
            return ()
        run = str(self._folder.run(model.before.name))
        return ("--warm-start", run, "--optimizer-state", self._optimizer_state)


def _planned(model: _Model) -> PlannedRun:
    return PlannedRun(model.name, model.config, model.name, model.config.train.seed)
