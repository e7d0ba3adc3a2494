"""Proposals: a function of what is known, without repetitions, that finds better values."""

from __future__ import annotations

import math
from typing import Any, Literal

import optuna
import pytest

from recmtl.studies.proposals import Known, propose
from recmtl.studies.search import Choices, Range, SearchKey

KEYS: tuple[SearchKey, ...] = (
    Range("lr", 1e-4, 1e-1, log=True),
    Range("epochs", 1, 20, is_whole=True),
    Range("batch", 8, 1024, log=True, is_whole=True),
    Choices("experts", (1, 2, 4, 8, 16)),
    Choices("wide", ("none", "fm", "linear")),
    Range("dropout", 0.0, 0.5),
)


def worth(params: dict[str, Any]) -> float:
    """Best at lr .01, 8 experts, fm, without dropout."""
    steps = abs(math.log2(params["experts"]) - 3)
    far = (math.log10(params["lr"]) + 2) ** 2 + 0.3 * steps + params["dropout"]
    return -far - 0.5 * (params["wide"] != "fm")


def search(
    seed: int, count: int, mode: Literal["min", "max"] = "max", at_once: int = 1
) -> list[Known]:
    """The trials of a search in which the last few before a trial have no value yet."""
    sign = 1 if mode == "max" else -1
    found = list[dict[str, Any]]()
    for number in range(count):
        seen = number - at_once + 1
        known = [Known(p, sign * worth(p) if n < seen else None) for n, p in enumerate(found)]
        params = propose(KEYS, known, number=number, seed=seed, mode=mode)
        assert params is not None
        found.append(params)
    return [Known(params, sign * worth(params)) for params in found]


def test_values_lie_in_the_search_and_are_of_its_types() -> None:
    for trial in search(seed=1, count=25):
        assert all(key.holds(trial.params[key.key]) for key in KEYS)
        assert [type(trial.params[key.key]) for key in KEYS] == [float, int, int, int, str, float]
        assert trial.params["lr"] == float(f"{trial.params['lr']:.4g}")


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_same_knowledge_makes_the_same_proposal(at_once: int) -> None:
    first = search(seed=3, count=20, at_once=at_once)
    assert search(seed=3, count=20, at_once=at_once) == first
    assert search(seed=4, count=20, at_once=at_once) != first
    params = [trial.params for trial in first]
    assert all(params.count(one) == 1 for one in params)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("at_once", [1, 2])
def test_later_trials_are_better_than_the_random_ones(
    mode: Literal["min", "max"], at_once: int
) -> None:
    for seed in range(3):
        trials = [worth(trial.params) for trial in search(seed, 40, mode, at_once)]
        assert sum(trials[-15:]) / 15 > sum(trials[:10]) / 10 + 0.2
        assert max(trials) > max(trials[:10])


def test_nothing_is_tried_twice_and_the_end_is_known() -> None:
    keys = (Choices("wide", ("none", "fm")), Choices("experts", (1, 2, 4)))
    known = [Known({"wide": "none", "experts": 2}, 0.5)]
    while (params := propose(keys, known, number=len(known), seed=0, mode="max")) is not None:
        known.append(Known(params, None, failed=len(known) % 2 == 0))
    tried = {(trial.params["wide"], trial.params["experts"]) for trial in known}
    assert len(known) == len(tried) == 6


def test_a_trial_outside_of_the_search_says_nothing() -> None:
    """And a failed one does not count as one that is finished."""
    keys = (Range("lr", 0.001, 0.1, log=True),)
    own = Known({"lr": 0.5}, 0.9)
    inside = [Known({"lr": 0.001 * 1.35**n}, 0.1 * n) for n in range(15)]
    failed = [Known({"lr": 0.09}, None, failed=True)] * 3

    def told(known: list[Known]) -> Any:
        return propose(keys, known, number=20, seed=0, mode="max")

    assert told([own, *inside]) == told(inside) == told([*inside, *failed])
    changed = [Known(trial.params, -(trial.value or 0.0)) for trial in inside]
    assert told(changed) != told(inside)


def test_optuna_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    propose(KEYS, [], number=0, seed=0, mode="min")
    assert optuna.logging.get_verbosity() == level
    assert capfd.readouterr() == ("", "")
