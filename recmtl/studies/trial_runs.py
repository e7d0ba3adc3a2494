"""Trials, one after the other or some at a time: each a run, whose end the next ones build on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from recmtl._files import write_text
from recmtl._progress import Bar, Progress
from recmtl.config import RunConfig, dump_yaml
from recmtl.errors import DataError, SpecError
from recmtl.run import Run
from recmtl.studies.children import Children, Ended, Job, error_of
from recmtl.studies.contestants import PlannedRun
from recmtl.studies.machine import cores
from recmtl.studies.search import SearchKey, is_own_section, override
from recmtl.studies.trials import Trial, TrialLog
from recmtl.studies.tune_folder import TuneFolder

if TYPE_CHECKING:  # it imports Optuna
    from recmtl.studies.proposals import Known

__all__ = ["Propose", "TrialRuns", "best_of"]

_MOST_IN_A_ROW = 3
_SPEC_CODE, _NO_VALUE_CODE = SpecError.exit_code, DataError.exit_code


class Propose(Protocol):
    """What gives a trial its values; see `recmtl.studies.proposals.propose`."""

    def __call__(
        self,
        keys: Sequence[SearchKey],
        known: Sequence[Known],
        *,
        number: int,
        seed: int,
        mode: Literal["min", "max"],
    ) -> dict[str, Any] | None:
        """Values by key, or None where none is left."""


class TrialRuns:
    """The trials of a folder.

    With J at a time, trial n is proposed when trials 0 to n - J have ended, and from what they came
    to: whichever of the others ends first changes nothing.

    Args:
        folder: of the search.
        log: its trials.
        keys: what is searched.
        load: the spec with further overrides.
        propose: gives a trial its values.
        own: the values of the spec as it stands, those of trial 0.
        seed: of the proposals.
        data_dir: folder of the data.
        data_fingerprint: names the data.
        num_rows: training rows of an epoch.
        at_once: how many trials train at a time.
        keep: whether all trials keep their checkpoints.
    """

    def __init__(
        self,
        folder: TuneFolder,
        log: TrialLog,
        keys: Sequence[SearchKey],
        load: Callable[[Sequence[str]], RunConfig],
        propose: Propose,
        *,
        own: Mapping[str, Any],
        seed: int,
        data_dir: Path,
        data_fingerprint: str,
        num_rows: int,
        at_once: int,
        keep: bool,
    ) -> None:
        self.threads = max(1, cores() // at_once)
        self._folder, self._log, self._keys = folder, log, keys
        self._load, self._propose, self._own, self._seed = load, propose, own, seed
        self._data_dir, self._data_fingerprint = data_dir, data_fingerprint
        self._num_rows, self._at_once, self._keep = num_rows, at_once, keep
        self._base = load(())
        self._active: dict[str, int] = {}
        self._shown_rows: dict[str, int] = {}
        self._given_up: set[int] = set()  # in this call; a later one tries them again
        self._in_a_row = 0
        self._has_more = True

    def train(self, count: int, progress: Progress) -> None:
        """Train until there are so many trials, or no values are left to try.

        Raises:
            RecMTLError: of the kind that the trial itself ended with: the spec as it stands cannot
                be trained, or one trial after the other failed for reasons of the machine.
        """
        for trial in self._log.trials:
            self._tidy(trial)
        of_one = self._base.train.epochs * self._num_rows
        ended = sum(self._is_settled(number) for number in range(min(count, len(self._log))))
        if ended == count:
            return
        with (
            progress("tune", count * of_one, "rows", done=ended * of_one) as bar,
            Children(self._data_dir, threads=self.threads, num_rows=self._num_rows) as children,
        ):
            self._begin_what_can(children, count, bar)
            while children:
                for one in children.wait():
                    self._end(one)
                    bar.advance(of_one - self._shown_rows.pop(one.job.name, 0))
                self._begin_what_can(children, count, bar)
                for job, rows in children.new_rows():
                    bar.advance(self._in_units(job, rows))
                bar.advance(0, **self._shown(children, count))

    def best(self) -> Trial:
        """The best trial so far."""
        found = best_of(self._log.trials, self._base.monitor_mode)
        assert found is not None  # trial 0 is there, or `train` failed
        return found

    def config(self, trial: Trial) -> RunConfig:
        """The spec of a trial.

        Raises:
            SpecError: its values do not go together.
        """
        if trial.number == 0:
            return self._base
        # A section before its keys: another kind of tower replaces all that was set in it.
        keys = sorted(trial.params, key=lambda key: key.count("."))
        keys = [key for key in keys if not is_own_section(self._base, key, trial.params[key])]
        return self._load([override(key, trial.params[key]) for key in keys])

    def _begin_what_can(self, children: Children, count: int, bar: Bar) -> None:
        while len(children) < self._at_once and (trial := self._next(count)) is not None:
            try:
                config = self.config(trial)
            except SpecError as error:
                said = f"{type(error).__name__}: {error}"
                self._log.fail(trial.number, said, _SPEC_CODE, 0.0)
                bar.advance(self._base.train.epochs * self._num_rows)
                continue
            planned = PlannedRun(trial.name, config, trial.name, config.train.seed)
            if self._folder.is_finished(planned, self._data_fingerprint):
                self._take(trial, 0.0)  # killed between its end and the line about it
                bar.advance(self._base.train.epochs * self._num_rows)
                continue
            write_text(self._folder.spec(trial.name), dump_yaml(config))
            job = Job(
                f"trial {trial.number}",
                self._folder.spec(trial.name),
                self._folder.run(trial.name),
                self._folder.log(trial.name),
                config.train.epochs,
            )
            self._active[job.name] = trial.number
            children.start(job)

    def _next(self, count: int) -> Trial | None:
        """The next trial to begin: one that was begun before, or a new one; None for none yet."""
        active = set(self._active.values())
        for trial in self._log.trials[:count]:
            if not self._is_settled(trial.number) and trial.number not in active:
                return trial
        number = len(self._log)
        seen = max(0, number - self._at_once + 1)
        if number >= count or not self._has_more or not all(map(self._is_settled, range(seen))):
            return None
        params = self._own if number == 0 else self._proposed(number, seen)
        if params is None:
            self._has_more = False
            return None
        return self._log.begin(params)

    def _proposed(self, number: int, seen: int) -> dict[str, Any] | None:
        from recmtl.studies.proposals import Known

        known = [
            Known(
                dict(trial.params),
                trial.value if trial.number < seen else None,
                failed=trial.number < seen and not trial.is_complete,
            )
            for trial in self._log.trials
        ]
        mode = self._base.monitor_mode
        return self._propose(self._keys, known, number=number, seed=self._seed, mode=mode)

    def _is_settled(self, number: int) -> bool:
        """Whether this call has nothing to do for a trial; the first one is always tried."""
        if number in self._given_up:
            return True
        trial = self._log[number]
        return trial.is_complete or (trial.has_failed and number > 0)

    def _end(self, one: Ended) -> None:
        trial = self._log[self._active.pop(one.job.name)]
        if one.failure is None:
            self._take(trial, one.seconds)
            return
        trial = self._log.fail(
            trial.number, one.failure.message, one.failure.exit_code, one.seconds
        )
        self._require_start(trial, one.failure.message, one.failure.exit_code)
        if trial.has_failed:
            self._folder.discard(trial.name)
            return
        self._given_up.add(trial.number)
        self._in_a_row += 1
        if self._in_a_row == _MOST_IN_A_ROW:
            raise error_of(one.failure.exit_code)(
                f"{_MOST_IN_A_ROW} trials failed one after the other, for no fault of their specs."
                f" The same command tries them again. The last one said:\n{one.failure.message}"
            )

    def _require_start(self, trial: Trial, said: str, exit_code: int) -> None:
        if trial.number == 0:
            raise error_of(exit_code)(
                f"The spec as it stands gives nothing to start from. What it said:\n{said}"
            )

    def _take(self, trial: Trial, seconds: float) -> None:
        """Note what a finished run came to, and which checkpoints are wanted no more."""
        self._in_a_row = 0
        summary = Run(self._folder.run(trial.name)).summary or {"best": {}}
        metrics: dict[str, float | None] = summary["best"]
        value = metrics.get(f"valid/{self._base.monitor}")
        former = best_of(self._log.trials, self._base.monitor_mode)
        if value is None:
            said = f"`{self._base.monitor}` is not defined on the validation rows."
            self._log.fail(trial.number, said, _NO_VALUE_CODE, seconds)
            self._require_start(trial, said, _NO_VALUE_CODE)
        else:
            self._log.complete(trial.number, value, metrics, seconds)
        for done in (trial, former):
            if done is not None:
                self._tidy(done)

    def _tidy(self, trial: Trial) -> None:
        """Remove what a trial that has ended needs no more."""
        trial = self._log[trial.number]
        if trial.has_failed:
            self._folder.discard(trial.name)
        elif trial.is_complete and not self._keep and trial.number != self.best().number:
            self._folder.lighten(trial.name)

    def _in_units(self, job: Job, rows: int) -> int:
        """Rows as the bar counts them: every trial as many, whatever number of epochs it tries."""
        rows = rows * self._base.train.epochs // job.epochs
        self._shown_rows[job.name] = self._shown_rows.get(job.name, 0) + rows
        return rows

    def _shown(self, children: Children, count: int) -> dict[str, object]:
        ended = sum(self._is_settled(number) for number in range(len(self._log)))
        best = best_of(self._log.trials, self._base.monitor_mode)
        value = "-" if best is None else best.value
        shown: dict[str, object] = {"trials": f"{ended} of {count}", "best": value}
        return shown | ({"now": children.now()} if children else {})


def best_of(trials: Sequence[Trial], mode: Literal["min", "max"]) -> Trial | None:
    """The trial of the best value, the first of equals.

    Example:
        >>> found = best_of([Trial(0, {}, 0.5), Trial(1, {}, 0.6), Trial(2, {}, 0.6)], "max")
        >>> found.number
        1
    """
    sign = 1 if mode == "max" else -1
    done = [trial for trial in trials if trial.value is not None]
    return max(done, key=lambda trial: sign * (trial.value or 0.0), default=None)
