"""A search over a spec's own keys, judged on its validation rows."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recmtl._extras import naming_the_extra
from recmtl._files import write_json, write_text
from recmtl._progress import Progress, no_progress
from recmtl.config import RunConfig, dump_yaml, fingerprint
from recmtl.data import open_splits
from recmtl.errors import SpecError
from recmtl.studies.arguments import require_whole, to_nobody
from recmtl.studies.contestants import loaded_spec
from recmtl.studies.machine import cores, jobs_for, made_on
from recmtl.studies.search import (
    Choices,
    SearchKey,
    default_search,
    held_keys,
    is_own_section,
    value_of,
)
from recmtl.studies.search_file import read_search
from recmtl.studies.trial_runs import TrialRuns
from recmtl.studies.trials import Trial, TrialLog
from recmtl.studies.tune_folder import TuneFolder, with_absolute_paths
from recmtl.studies.tune_pages import as_html, as_markdown
from recmtl.studies.verdicts import number

__all__ = ["tune"]

_MOST_TRIALS = 10_000
_MOST_SEED = 2**63 - 1


def tune(
    spec: str | Path | RunConfig,
    *,
    out: str | Path,
    data: str | Path | None = None,
    trials: int = 30,
    seed: int = 0,
    search: str | Path | Mapping[str, Any] | None = None,
    jobs: int | None = None,
    overrides: Sequence[str] = (),
    keep: bool = False,
    overwrite: bool = False,
    progress: Progress = no_progress,
    notify: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Search for better values of a spec's own keys, by `train.monitor` on the validation rows.

    Trial 0 is the spec as it stands; each trial is a run of `recmtl train` in a process of its own,
    in `out/trials/`, with the spec's own seed. A call that was ended in any way goes on when it is
    repeated, with more `trials` too. `out/spec.yaml` is the best spec, ready to be trained;
    `out/tune.json`, `tune.md` and `tune.html` say what was found. The same call with the same
    `jobs` proposes the same trials.

    Args:
        spec: a spec file, or a config that is loaded already.
        out: folder of the search.
        data: folder of the data (default: the folder of the spec file).
        trials: how many there should be in the end, trial 0 among them.
        seed: of the proposals.
        search: a search file, or the same as a mapping, such as ``{"train.lr": {"low": 1e-4,
            "high": 1e-2, "log": True}, "wide": {"choices": ["none", "fm"]}}`` (default: learning
            rates, the tables' prior and scale, the tower's dropout and sizes, `wide`).
        jobs: how many runs train at a time (default: as many as memory and cores allow).
        overrides: changes of the spec; a key that is set here is not searched.
        keep: keep the checkpoints of all trials, not of the best one alone.
        overwrite: start anew where `out` holds a search.
        progress: shows what is going on (see `recmtl._progress`).
        notify: told, in a sentence each, what is held as it is and which trials failed.

    Returns:
        What `tune.json` holds: `trials`, the number of the `best` one, `values` as it stands, of
        the best, and the gain; what was `search`ed and `held`, and how it came about.

    Raises:
        SpecError: the spec, the search or an argument is wrong, or `out` holds something else.
        DataError: the data does not fit the spec.
        MissingExtraError: Optuna is not installed.
        CheckpointError: `out` was started with another spec, search or other data, or is damaged.
        RecMTLError: the spec as it stands cannot be trained, or one trial after the other failed.
    """
    with naming_the_extra("`recmtl tune`"):
        from recmtl.studies.proposals import propose

    folder, say = TuneFolder(Path(out)), notify or to_nobody
    require_whole("trials", trials, 1, _MOST_TRIALS)
    require_whole("seed", seed, 0, _MOST_SEED)
    if jobs is not None:
        require_whole("jobs", jobs, 1, cores())

    base = loaded_spec(spec, overrides)

    def load(more: Sequence[str]) -> RunConfig:
        # With defaults written out, a key can be set in a section that the file leaves out.
        return loaded_spec(base, more)

    if base.monitor is None:
        raise SpecError(
            "tune: there are no validation rows to judge trials by. Give `data.valid`, such as"
            " `{fraction: 0.1, by: user_id}`."
        )
    keys, held = _searched(base, search, load, overrides)
    default = Path() if isinstance(spec, RunConfig) else Path(spec).parent
    data_dir = (default if data is None else Path(data)).absolute()
    folder.require_free()
    splits = open_splits(base, data_dir)
    assert splits.valid is not None
    with folder.held():
        at_once = jobs_for(base, splits.train.num_rows) if jobs is None else jobs
        settings = folder.begin(
            base,
            {"data": splits.fingerprint},
            {"jobs": at_once, "seed": seed},
            overwrite=overwrite,
        )
        folder.require_same_search(keys, seed, settings["seed"])
        at_once = settings["jobs"] if jobs is None else at_once
        for key, text in held.items():
            say(f"not searched: `{key}`, as `{text}` settles it.")
        log = TrialLog(folder.trials)
        runs = TrialRuns(
            folder,
            log,
            keys,
            load,
            propose,
            own=_own_values(base, keys),
            seed=seed,
            data_dir=data_dir,
            data_fingerprint=splits.fingerprint,
            num_rows=splits.train.num_rows,
            at_once=at_once,
            keep=keep,
        )
        runs.train(trials, progress)
        # One that failed in an earlier call for more trials is not this one's affair.
        done = [trial for trial in log.trials if trial.number < trials or trial.has_ended]
        for trial in done:
            if trial.message is not None:
                say(f"trial {trial.number} failed: {trial.message}")
        if len(log) < trials:
            say(f"{len(log)} trials are all that the search has: no other combination is left.")
        best = runs.best()
        summary = {
            **_found(base, done, best, keys),
            "held": held,
            "rows": {"training": splits.train.num_rows, "validation": splits.valid.num_rows},
            "seed": seed,
            "jobs": at_once,
            "threads": runs.threads,
            "spec_file": str(folder.best),
            "run": str(folder.run(best.name)),
            "command": _command(spec, data, trials, seed, search, jobs, keep, out, overrides),
            **made_on(optuna=version("optuna")),
            "spec": fingerprint(base),
        }
        config = with_absolute_paths(runs.config(best), data_dir)
        write_text(folder.best, f"# {_head(summary)}\n{dump_yaml(config)}")
        write_text(folder.path / "tune.md", as_markdown(summary))
        write_text(folder.path / "tune.html", as_html(summary))
        write_json(folder.path / "tune.json", summary)
    return summary


def _searched(
    base: RunConfig,
    search: str | Path | Mapping[str, Any] | None,
    load: Callable[[Sequence[str]], RunConfig],
    overrides: Sequence[str],
) -> tuple[tuple[SearchKey, ...], dict[str, str]]:
    """What is searched, and what was to be but is settled by an override."""
    keys = default_search(base) if search is None else read_search(search, load)
    held = held_keys(keys, overrides)
    left = tuple(key for key in keys if key.key not in held)
    if not left:
        raise SpecError(
            "tune: nothing is left to search, as KEY=VALUE settles every key. Leave some out, or"
            " name others in `--search FILE`."
        )
    return left, held


def _own_values(base: RunConfig, keys: Sequence[SearchKey]) -> dict[str, Any]:
    """The values of the spec as it stands; a section whose kind is one of the choices is a word."""
    own = {key.key: value_of(base, key.key) for key in keys}
    for key in keys:
        for value in key.values if isinstance(key, Choices) else ():
            if is_own_section(base, key.key, value):
                own[key.key] = value
    return own


def _found(
    base: RunConfig, trials: Sequence[Trial], best: Trial, keys: Sequence[SearchKey]
) -> dict[str, Any]:
    """What the search came to."""
    first = trials[0].value
    assert first is not None
    assert best.value is not None
    sign = 1 if base.monitor_mode == "max" else -1
    own = trials[0].params
    return {
        "name": base.name,
        "monitor": base.monitor,
        "mode": base.monitor_mode,
        "values": {
            "as_it_stands": first,
            "best": best.value,
            "gain": sign * (best.value - first),
        },
        "best": best.number,
        "changed": {
            key: {"from": own[key], "to": value}
            for key, value in best.params.items()
            if value != own[key]
        },
        "search": {key.key: key.as_json() for key in keys},
        "outside": [key.key for key in keys if not key.holds(own[key.key])],
        "trials": [asdict(trial) for trial in trials],
        "failed": [
            {
                "number": t.number,
                "message": t.message,
                "exit_code": t.exit_code,
                "again": not t.has_failed,
            }
            for t in trials
            if t.message is not None
        ],
    }


def _head(summary: Mapping[str, Any]) -> str:
    """The first line of the best spec."""
    values = summary["values"]
    return (
        f"Trial {summary['best']} of {len(summary['trials'])} of `recmtl tune`:"
        f" {summary['monitor']} {number(values['best'])} on the validation rows,"
        f" {number(values['as_it_stands'])} before."
    )


def _command(
    spec: str | Path | RunConfig,
    data: str | Path | None,
    trials: int,
    seed: int,
    search: str | Path | Mapping[str, Any] | None,
    jobs: int | None,
    keep: bool,
    out: str | Path,
    overrides: Sequence[str],
) -> str:
    """The command line that does the same."""
    words = ["recmtl", "tune", spec.name if isinstance(spec, RunConfig) else str(spec)]
    words += ["--data", str(data)] if data is not None else []
    words += ["--trials", f"{trials}", "--seed", f"{seed}"]
    if search is not None:
        is_file = isinstance(search, str | Path)
        words += ["--search", str(search) if is_file else str(Path(out) / "search.yaml")]
    words += ["--jobs", f"{jobs}"] if jobs is not None else []
    words += ["--keep"] if keep else []
    return shlex.join([*words, "--out", str(out), *overrides])
