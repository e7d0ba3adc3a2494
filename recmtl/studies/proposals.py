"""What a trial should try: a tree-structured Parzen estimator's guess after the trials before it.

A proposal depends on the seed, on its number and on what is known by then, and on nothing else: the
estimator is built anew from the list of trials for each of them.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from recmtl.studies.search import Choices, SearchKey

__all__ = ["Known", "propose"]

_RANDOM_TRIALS = 10
_ESTIMATES, _DRAWS = 10, 1000


class Known(NamedTuple):
    """A trial that was proposed before."""

    params: dict[str, Any]
    """Values by key."""
    value: float | None
    """What it came to; None while that is unknown."""
    failed: bool = False
    """Whether it came to nothing."""


def propose(
    keys: Sequence[SearchKey],
    known: Sequence[Known],
    *,
    number: int,
    seed: int,
    mode: Literal["min", "max"],
) -> dict[str, Any] | None:
    """Values for the next trial, other than those of any trial before.

    The first ten finished trials are random; the estimator reads what is known after that. Trials
    whose value is unknown yet keep others away from where they are.

    Args:
        keys: what is searched.
        known: the trials before it. One that failed, or has a value outside the search, tells the
            estimator nothing.
        number: of the trial.
        seed: of the search.
        mode: which way is better.

    Returns:
        Values by key; None where no combination is left, or none was found in a thousand draws.

    Example:
        >>> keys = (Choices("wide", ("none", "fm")),)
        >>> before = [Known({"wide": "none"}, 0.5)]
        >>> propose(keys, before, number=1, seed=0, mode="max")
        {'wide': 'fm'}
        >>> propose(keys, [*before, Known({"wide": "fm"}, 0.6)], number=2, seed=0, mode="max")
    """
    taken = [trial.params for trial in known]
    distributions = {key.key: _distribution(key) for key in keys}
    with _quiet():
        study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        for trial in known:
            inside = all(key.holds(trial.params.get(key.key)) for key in keys)
            if inside and not trial.failed:
                study.add_trial(_told(keys, distributions, trial))
        for sampler in _samplers(seed, number):
            study.sampler = sampler
            asked = study.ask(distributions)
            params = {key.key: _value(key, asked.params[key.key]) for key in keys}
            if params not in taken:
                return params
            study.tell(asked, state=TrialState.FAIL)
    return None


def _samplers(seed: int, number: int) -> Iterator[BaseSampler]:
    """Some estimators, then chance; each with a seed of its own."""
    for attempt in range(_ESTIMATES + _DRAWS):
        text = f"{seed} {number} {attempt}".encode()
        own = int.from_bytes(hashlib.sha256(text).digest()[:4], "little")
        if attempt < _ESTIMATES:
            yield TPESampler(
                n_startup_trials=_RANDOM_TRIALS, seed=own, multivariate=True, constant_liar=True
            )
        else:
            yield RandomSampler(seed=own)


def _distribution(key: SearchKey) -> BaseDistribution:
    """Where values are drawn from; of choices their positions are."""
    if isinstance(key, Choices):
        last = len(key.values) - 1
        return (
            IntDistribution(0, last) if key.is_ordered else CategoricalDistribution(range(last + 1))
        )
    if key.is_whole:
        return IntDistribution(int(key.low), int(key.high), log=key.log)
    return FloatDistribution(key.low, key.high, log=key.log)


def _value(key: SearchKey, drawn: Any) -> Any:
    return key.values[drawn] if isinstance(key, Choices) else key.settled(drawn)


def _told(
    keys: Sequence[SearchKey], distributions: dict[str, BaseDistribution], trial: Known
) -> optuna.trial.FrozenTrial:
    params = {
        key.key: key.place(trial.params[key.key])
        if isinstance(key, Choices)
        else trial.params[key.key]
        for key in keys
    }
    state = TrialState.RUNNING if trial.value is None else TrialState.COMPLETE
    return create_trial(state=state, params=params, distributions=distributions, value=trial.value)


@contextmanager
def _quiet() -> Iterator[None]:
    """No lines about studies in memory, and no warnings that its options are young."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
