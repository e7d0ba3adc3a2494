"""The lines about trials: what is read back, what a killed process left, what is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from recmtl.errors import CheckpointError
from recmtl.studies.trial_runs import best_of
from recmtl.studies.trials import Trial, TrialLog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trials.jsonl"


def filled(file: Path) -> list[Trial]:
    log = TrialLog(file)
    log.begin({"train.lr": 0.1, "wide": "fm"})
    log.begin({"train.lr": 0.2, "wide": "none"})
    log.complete(0, 0.7, {"valid/ctr/auc": 0.7, "valid/cvr/auc": None}, 12.34)
    log.fail(1, "SpecError: übel\nund so weiter", 2, 0.1)
    log.begin({"train.lr": 0.3, "wide": "none"})
    log.fail(2, "was killed by signal 9 (SIGKILL).", 1, 3.0)
    log.begin({"train.lr": 0.4, "wide": "none"})
    return log.trials


def test_what_was_noted_is_read_back(file: Path) -> None:
    trials = filled(file)
    assert TrialLog(file).trials == trials
    assert [t.is_complete for t in trials] == [True, False, False, False]
    assert [t.has_failed for t in trials] == [False, True, False, False]
    assert [t.has_ended for t in trials] == [True, True, False, False]
    assert trials[0].metrics == {"valid/ctr/auc": 0.7, "valid/cvr/auc": None}
    assert trials[0].seconds == 12.3


def test_one_that_was_tried_again_has_its_last_end(file: Path) -> None:
    filled(file)
    TrialLog(file).complete(2, 0.8, {}, 1.0)
    again = TrialLog(file)[2]
    assert (again.value, again.message, again.exit_code) == (0.8, None, None)


def test_every_torn_line_is_the_end_of_what_is_known(file: Path) -> None:
    filled(file)
    whole = file.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        log = TrialLog(file)
        kept = max((end for end in ends if end <= size), default=0)
        assert file.read_bytes() == whole[:kept]
        log.begin({"train.lr": 9.0})  # what follows stands on a line of its own
        assert TrialLog(file).trials == log.trials


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"trial": 1, "params"', '{"trial": 5, "params"'),
        ('"value": 0.7', '"value": "0.7"'),
        ('"value": 0.7', '"value": NaN'),
        ('"exit_code": 2', '"exit_code": true'),
        ('{"trial": 0, "value"', '{"trial": -1, "value"'),
        ('"seconds": 3.0', '"seconds": null'),
        ('"params": {"train.lr": 0.3, "wide": "none"}', '"params": 3'),
        ("{", "["),
        ('"message"', '"mess"'),
    ],
)
def test_lines_that_were_changed_are_refused(file: Path, old: str, new: str) -> None:
    filled(file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=r"trials\.jsonl:\d: is no line that `recmtl tune`"):
        TrialLog(file)


def test_other_bytes_are_refused(file: Path) -> None:
    file.write_bytes(b"\xff\n")
    with pytest.raises(CheckpointError, match=r"trials\.jsonl: is not ASCII text"):
        TrialLog(file)


def test_a_trial_ends_once(file: Path) -> None:
    filled(file)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[2]]) + "\n")
    with pytest.raises(CheckpointError, match=r":8: is no line"):
        TrialLog(file)


def test_the_first_of_equals_is_the_best() -> None:
    values = [None, 0.5, 0.7, 0.7, 0.2, 0.2]
    trials = [Trial(number, {}, value) for number, value in enumerate(values)]
    assert [getattr(best_of(trials, mode), "number", None) for mode in ("max", "min")] == [2, 4]
    assert best_of([Trial(0, {})], "max") is None
