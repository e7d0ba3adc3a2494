"""Whose folder it is, and what may change between two calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from recmtl import load_spec
from recmtl.config import RunConfig
from recmtl.errors import CheckpointError, SpecError
from recmtl.studies.contestants import PlannedRun
from recmtl.studies.folder import StudyFolder
from recmtl.studies.search import Choices, Range
from recmtl.studies.trials import TrialLog
from recmtl.studies.tune_folder import TuneFolder
from tests.studies.worlds import SPEC, write_world

STAMPS = {"data": "a", "test rows": "b"}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_spec(write_world(tmp_path / "world", SPEC, rows=8))


def test_a_second_call_takes_over_the_settings_of_the_first(
    tmp_path: Path, config: RunConfig
) -> None:
    folder = StudyFolder(tmp_path / "out")
    with folder.held():
        assert folder.begin(config, STAMPS, {"jobs": 2}, overwrite=False) == {"jobs": 2}
        assert folder.begin(config, STAMPS, {"jobs": 1}, overwrite=False) == {"jobs": 2}
        assert folder.begin(config, STAMPS, {"jobs": 1}, overwrite=True) == {"jobs": 1}
    folder.require_free()


def test_another_spec_or_other_data_are_refused(tmp_path: Path, config: RunConfig) -> None:
    folder = StudyFolder(tmp_path / "out")
    other = load_spec(tmp_path / "world/spec.yaml", ["train.lr=0.5"])
    seeded = load_spec(tmp_path / "world/spec.yaml", ["train.seed=5"])
    with folder.held():
        folder.begin(config, STAMPS, {"jobs": 1}, overwrite=False)
        with pytest.raises(CheckpointError, match=r"with another spec: `train\.lr` differ"):
            folder.begin(other, STAMPS, {"jobs": 1}, overwrite=False)
        with pytest.raises(CheckpointError, match="was started on other test rows"):
            folder.begin(config, {**STAMPS, "test rows": "c"}, {"jobs": 1}, overwrite=False)
        folder.begin(seeded, STAMPS, {"jobs": 1}, overwrite=False)
        folder.begin(other, STAMPS, {"jobs": 1}, overwrite=True)


def test_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    StudyFolder(out).require_free()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match="exists and is no comparison"):
        StudyFolder(out).require_free()


def test_two_calls_do_not_work_in_one_folder(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "out")
    with (
        folder.held(),
        pytest.raises(SpecError, match="another process is writing into it"),
        folder.held(),
    ):
        pass


def test_a_run_of_another_spec_is_refused(tmp_path: Path, run: Path, funnel: Path) -> None:
    folder = StudyFolder(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a").symlink_to(run)
    config = load_spec(run / "config.yaml")
    planned = PlannedRun("a", config, "a", 0)
    from recmtl.run import Run

    data = Run(run).data_fingerprint
    assert folder.is_finished(planned, data)
    assert not folder.is_finished(PlannedRun("b", config, "b", 0), data)
    with pytest.raises(CheckpointError, match="was trained on other data"):
        folder.is_finished(planned, "other")
    changed = load_spec(run / "config.yaml", ["train.lr=0.9"])
    with pytest.raises(CheckpointError, match=r"another spec: `train\.lr` differ"):
        folder.is_finished(PlannedRun("a", changed, "a", 0), data)


def test_another_kind_of_study_is_refused(tmp_path: Path, config: RunConfig) -> None:
    comparison, search = (kind(tmp_path / "out") for kind in (StudyFolder, TuneFolder))
    with comparison.held():
        comparison.begin(config, STAMPS, {"jobs": 1}, overwrite=False)
    comparison.require_free()
    with pytest.raises(SpecError, match="exists and is no search"):
        search.require_free()


def test_a_search_that_starts_anew_forgets_its_trials(tmp_path: Path, config: RunConfig) -> None:
    folder = TuneFolder(tmp_path / "out")
    keys = (Choices("wide", ("none", "fm")),)
    settings = {"jobs": 1, "seed": 3}
    with folder.held():
        folder.begin(config, STAMPS, settings, overwrite=False)
        folder.require_same_search(keys, 3, 3)
        TrialLog(folder.trials).begin({"wide": "fm"})
        folder.run("000").mkdir(parents=True)
        folder.require_same_search(keys, 3, 3)
        with pytest.raises(CheckpointError, match=r"another search: `train\.lr`, `--seed` differ"):
            folder.require_same_search((*keys, Range("train.lr", 0.1, 1.0)), 4, 3)
        seeded = load_spec(tmp_path / "world/spec.yaml", ["train.seed=5"])
        with pytest.raises(CheckpointError, match=r"another spec: `train\.seed` differ"):
            folder.begin(seeded, STAMPS, settings, overwrite=False)
        (tmp_path / "out/study.json").write_text('{"mine": 1}')
        with pytest.raises(SpecError, match="exists and is no"):
            folder.require_free()
        (tmp_path / "out/study.json").write_text("{")  # damaged: it can still be replaced
        folder.require_free()
        with pytest.raises(CheckpointError, match=r"study\.json: cannot be read"):
            folder.begin(config, STAMPS, settings, overwrite=False)
        folder.begin(seeded, STAMPS, settings, overwrite=True)
        folder.require_same_search((Range("train.lr", 0.1, 1.0),), 4, 4)
    assert len(TrialLog(folder.trials)) == 0
    assert not folder.run("000").exists()
