"""The run folder: whole or not there, and told apart from everything else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import recmtl
from recmtl.config import RunConfig, fingerprint, load_spec
from recmtl.errors import CheckpointError, SpecError
from recmtl.run import Run, versions
from tests.runs import change_state, settle


@pytest.fixture
def config(funnel: Path) -> RunConfig:
    return load_spec(funnel / "spec.yaml", ["tower=mmoe"])


@pytest.fixture
def fresh(run: Path, config: RunConfig, tmp_path: Path) -> Run:
    """A run that has just begun."""
    return Run.create(tmp_path / "fresh", config, Run(run).encoders, data_fingerprint="data")


def prepare(
    path: Path, config: RunConfig, *, data: str = "data", overwrite: bool = False
) -> Run | None:
    return Run.prepare(path, config, data_fingerprint=data, overwrite=overwrite)


def test_a_new_run_has_all_that_it_needs_and_nothing_besides(fresh: Run, config: RunConfig) -> None:
    assert sorted(path.name for path in fresh.path.iterdir()) == [
        *("checkpoints", "config.yaml", "encoders", "run.json", "versions.json")
    ]
    assert [path.name for path in fresh.path.parent.iterdir()] == ["fresh"]
    assert fresh.config == config
    assert fresh.checkpoints == fresh.path / "checkpoints"
    assert (fresh.finished, fresh.summary, fresh.metric_lines()) == (False, None, [])
    again = Run(fresh.path)
    assert again.encoders.tables == fresh.encoders.tables
    assert again.starts == [{"from": None, **versions()}]


def test_a_failure_while_it_is_made_leaves_nothing(
    run: Path, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = Run(run).encoders

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(encoders), "save", full)
    with pytest.raises(OSError, match="No space left"):
        Run.create(tmp_path / "run", config, encoders, data_fingerprint="data")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_stays_finished(fresh: Run) -> None:
    fresh.finish({"best": {"valid/ctr/auc": 0.7}})
    assert fresh.finished
    again = Run(fresh.path)
    assert again.finished
    assert again.summary == {"best": {"valid/ctr/auc": 0.7}}


def test_what_a_folder_is_for_training(fresh: Run, config: RunConfig, tmp_path: Path) -> None:
    assert prepare(tmp_path / "absent", config) is None
    (tmp_path / "empty").mkdir()
    assert prepare(tmp_path / "empty", config) is None
    found = prepare(fresh.path, config)
    assert found is not None
    assert found.path == fresh.path
    assert prepare(fresh.path, config, overwrite=True) is None


def test_a_folder_of_something_else_is_refused(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.txt"):
        for overwrite in (False, True):
            with pytest.raises(SpecError, match=r"exists and is not a run\. .*nothing was changed"):
                prepare(path, config, overwrite=overwrite)


def test_another_training_is_refused(fresh: Run, config: RunConfig) -> None:
    other = config.model_copy(update={"name": "other"})
    assert fingerprint(other) != fingerprint(config)
    with pytest.raises(CheckpointError, match="was started with another spec: `"):
        prepare(fresh.path, other)
    with pytest.raises(CheckpointError, match="other data"):
        prepare(fresh.path, config, data="more")
    fresh.finish({})
    with pytest.raises(SpecError, match=r"this run is finished.*--overwrite"):
        prepare(fresh.path, config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is not a run folder \(`run\.json` is missing\)"),
        ("{", r"run\.json: is corrupt"),
        ("[]", r"run\.json: is not recmtl's"),
        ("[" * 100_000, r"run\.json: is corrupt"),
        ('{"status": "finished"}', r"run\.json: is not recmtl's"),
        ('{"format": 2, "status": "finished"}', r"run\.json: was not written by recmtl"),
    ],
)
def test_a_broken_state_is_named(content: str | None, message: str, fresh: Run) -> None:
    state = fresh.path / "run.json"
    state.unlink() if content is None else state.write_text(content)
    with pytest.raises(CheckpointError, match=message):
        Run(fresh.path)


@pytest.mark.parametrize("number", [1, 99])
def test_another_format_is_named(number: int, fresh: Run) -> None:
    change_state(fresh.path, format=number)
    with pytest.raises(CheckpointError, match=rf"has format {number}, this version reads 2"):
        Run(fresh.path)


def test_a_changed_missing_or_broken_config_is_named(fresh: Run) -> None:
    file = fresh.path / "config.yaml"
    text = file.read_text()
    for content, message in (
        (text.replace("name: funnel", "name: other", 1), r"was changed after the run began"),
        (text + "extra: 1\n", r"config\.yaml: cannot be read"),
    ):
        file.write_text(content)
        with pytest.raises(CheckpointError, match=r"config\.yaml: its sha256"):
            Run(fresh.path)
        settle(fresh.path)
        with pytest.raises(CheckpointError, match=message):
            _ = Run(fresh.path).config
    file.unlink()
    with pytest.raises(CheckpointError, match=r"config\.yaml: is missing"):
        Run(fresh.path)
    with pytest.raises(CheckpointError, match=r"config\.yaml: there is no such file"):
        _ = fresh.config


def test_a_missing_encoder_file_is_named(fresh: Run) -> None:
    shutil.rmtree(fresh.path / "encoders")
    with pytest.raises(CheckpointError, match=r"encoders/files\.json: is missing"):
        Run(fresh.path)


def test_metric_lines_are_read_but_for_one_that_is_half(fresh: Run) -> None:
    file = fresh.path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert fresh.metric_lines() == [{"step": 1}, {"step": 2}]
    file.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl:2: is not JSON"):
        fresh.metric_lines()


def test_versions_name_what_decides_results() -> None:
    found = versions()
    assert {"python", "platform", "torch", "numpy"} <= set(found)
    assert found["recmtl"] == recmtl.__version__
    assert all(isinstance(version, str) for version in found.values())


def test_overwriting_replaces_at_once_or_not_at_all(
    fresh: Run, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = config.model_copy(update={"name": "other"})
    encoders = fresh.encoders

    def create(path: Path) -> Run:
        return Run.create(path, other, encoders, data_fingerprint="data", replace=True)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt("killed")

    with monkeypatch.context() as patched:
        patched.setattr("recmtl.run.dump_yaml", killed)
        with pytest.raises(KeyboardInterrupt, match="killed"):
            create(fresh.path)
    assert Run(fresh.path).config == config
    link = tmp_path / "link"
    link.symlink_to(fresh.path)
    assert create(link).config == other
    assert link.is_symlink()
    assert Run(fresh.path).config == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "link"]


def test_a_run_that_another_process_made_meanwhile_stays(fresh: Run, config: RunConfig) -> None:
    with pytest.raises(SpecError, match=r"exists by now\. Choose another `--out`"):
        Run.create(fresh.path, config, fresh.encoders, data_fingerprint="data")
    assert [path.name for path in fresh.path.parent.iterdir()] == ["fresh"]


def test_one_process_trains_a_run(fresh: Run, config: RunConfig) -> None:
    with fresh.training():
        with (
            pytest.raises(SpecError, match="another process is writing into it"),
            Run(fresh.path).training(),
        ):
            pass
        with pytest.raises(SpecError, match="another process is writing into it"):
            prepare(fresh.path, config, overwrite=True)
        Run(fresh.path)
    with Run(fresh.path).training():
        pass


def test_each_start_leaves_its_versions(fresh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = versions()
    with fresh.training():
        assert fresh.starts == [{"from": None, **first}]
    monkeypatch.setattr("recmtl.run.versions", lambda: {**first, "torch": "9.9"})
    with Run(fresh.path).training():
        pass
    assert fresh.starts == [{"from": None, **first}, {"from": None, **first, "torch": "9.9"}]


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a//b", ""])
def test_files_outside_the_run_are_not_looked_at(name: str, fresh: Run) -> None:
    change_state(fresh.path, files={name: "0"})
    with pytest.raises(CheckpointError, match=r"run\.json: names files outside the run"):
        Run(fresh.path)


def test_a_run_that_is_trained_meanwhile_is_not_replaced(fresh: Run, config: RunConfig) -> None:
    before = (fresh.path / "run.json").read_text()
    with (
        fresh.training(),
        pytest.raises(SpecError, match="another process is writing into it"),
    ):
        Run.create(fresh.path, config, fresh.encoders, data_fingerprint="new", replace=True)
    assert (fresh.path / "run.json").read_text() == before
