"""Who is compared, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from recmtl import load_spec
from recmtl.errors import SpecError
from recmtl.simulate.funnel_spec import FUNNEL_SPEC
from recmtl.studies.contestants import contestants_of
from tests.studies.worlds import ALL_KINDS, SPEC, write_world


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return write_world(tmp_path, ALL_KINDS, rows=8)


def test_the_spec_s_own_tower_and_two_baselines(spec: Path) -> None:
    base, found, left_out = contestants_of(spec)
    assert [c.name for c in found] == ["shared_bottom-tasks", "single_task", "additive"]
    assert [c.is_baseline for c in found] == [False, True, True]
    assert found[0].models["shared_bottom-tasks"] == base == load_spec(spec)
    assert not left_out
    names = [run.name for contestant in found for run in contestant.runs(2)]
    tasks = ["ctr", "cvr", "ctcvr", "dwell", "rating"]
    assert names == [
        *(f"shared_bottom-tasks-{seed}" for seed in range(2)),
        *(f"single_task-{task}-{seed}" for seed in range(2) for task in tasks),
        *(f"additive-{seed}" for seed in range(2)),
    ]


def test_a_single_task_model_learns_one_label_on_its_own_rows(spec: Path) -> None:
    _, found, _ = contestants_of(spec, ["train.monitor=ctr/gauc", "tasks.cvr.weight=0.5"])
    models = next(c for c in found if c.name == "single_task").models
    tasks = {name: config.tasks for name, config in models.items()}
    assert [len(of) for of in tasks.values()] == [1] * 5
    (ctcvr,), (cvr,) = tasks["single_task-ctcvr"], tasks["single_task-cvr"]
    assert (ctcvr.label, ctcvr.given, ctcvr.product_of) == ("buy", None, None)
    assert (cvr.label, cvr.given, cvr.weight) == ("buy", "click", 1.0)
    monitors = [config.train.monitor for config in models.values()]
    assert monitors == ["ctr/gauc", "cvr/gauc", "ctcvr/gauc", "dwell/rmse", "rating/ne"]


def test_the_additive_baseline_has_no_hidden_layer(spec: Path) -> None:
    _, found, _ = contestants_of(spec, ["interaction=dcnv2", "wide=fwfm", "tower.head_widths=[2]"])
    (config,) = found[-1].models.values()
    assert config.tower.kind == "esmm"
    assert config.tower.head_widths == ()
    assert (config.interaction.kind, config.wide.kind) == ("none", "none")
    assert config.objective.kind == "tasks"
    assert found[0].models["shared_bottom-tasks"].interaction.kind == "dcnv2"


def test_an_override_goes_to_each_tower_that_has_the_key(spec: Path) -> None:
    overrides = ["tower.num_experts=3", "tower.expert_widths=[6]", "train.epochs=7"]
    _, found, _ = contestants_of(spec, overrides, towers=["mmoe", "ple"])
    towers = {c.name: next(iter(c.models.values())).tower for c in found}
    assert towers["mmoe-tasks"].num_experts == 3
    assert towers["mmoe-tasks"].expert_widths == (6,)
    assert towers["ple-tasks"].expert_widths == (6,)
    assert towers["single_task"].expert_widths == (6,)
    epochs = {config.train.epochs for c in found for config in c.models.values()}
    assert epochs == {7}


def test_other_towers_have_their_defaults_and_the_spec_s_keeps_its_sizes(spec: Path) -> None:
    _, found, _ = contestants_of(spec, towers=["shared_bottom", "mmoe"])
    towers = [next(iter(c.models.values())).tower for c in found]
    assert towers[0].expert_widths == (8,)
    assert towers[1] == load_spec(spec, ["tower=mmoe"]).tower
    assert towers[2].expert_widths == (8,)


def test_objectives_multiply_and_esmm_has_its_own(spec: Path) -> None:
    both = ["tasks", "entire_space"]
    _, found, _ = contestants_of(spec, towers=["mmoe", "esmm"], objectives=both, baselines=False)
    assert [c.name for c in found] == [f"{t}-{o}" for t in ("mmoe", "esmm") for o in both]
    _, found, _ = contestants_of(spec, towers=["mmoe", "esmm"], baselines=False)
    assert [c.name for c in found] == ["mmoe-tasks", "esmm-entire_space"]


def test_a_tower_that_the_spec_cannot_feed_is_left_out_and_said(tmp_path: Path) -> None:
    text = "\n".join(line for line in FUNNEL_SPEC.splitlines() if "type: sequence" not in line)
    (tmp_path / "spec.yaml").write_text(text)
    towers = ["dtrn", "mmoe"]
    _, found, left_out = contestants_of(
        tmp_path / "spec.yaml", towers=towers, objectives=["tasks", "entire_space"]
    )
    assert [one.name for one in found][:2] == ["mmoe-tasks", "mmoe-entire_space"]
    assert left_out == ["dtrn: it needs a behaviour sequence; the spec has none."]
    with pytest.raises(SpecError, match="nothing to compare: dtrn: it needs a behaviour sequence"):
        contestants_of(tmp_path / "spec.yaml", towers=["dtrn"])
    (tmp_path / "spec.yaml").write_text(FUNNEL_SPEC)
    _, found, left_out = contestants_of(tmp_path / "spec.yaml", towers=towers)
    assert [one.tower for one in found][:2] == towers
    assert not left_out


def test_an_objective_that_cannot_be_is_left_out_and_said(tmp_path: Path) -> None:
    spec = write_world(tmp_path, SPEC, rows=8)
    _, found, left_out = contestants_of(spec, objectives=["tasks", "entire_space"])
    assert [c.name for c in found] == ["mmoe-tasks", "single_task", "additive"]
    assert left_out == ["mmoe-entire_space: no task of the spec has `product_of`."]
    with pytest.raises(SpecError, match="no task of the spec has `product_of`"):
        contestants_of(spec, objectives=["entire_space"])


def test_thinned_rows_are_compared_as_they_are(spec: Path) -> None:
    plain, others, _ = contestants_of(spec)
    said = ["data.sampled={keep: {click: 1.0, else: 0.1}}"]
    base, found, left_out = contestants_of(spec, said)
    assert (base, found) == (plain, others)
    assert left_out == [
        "`data.sampled`: no model is corrected; each says what it learnt of the thinned rows."
    ]


def test_a_loaded_config_does_as_well_as_its_file(spec: Path) -> None:
    from_file = contestants_of(spec, ["train.lr=0.5"], towers=["ple"])
    assert contestants_of(load_spec(spec), ["train.lr=0.5"], towers=["ple"]) == from_file


WRONG = {
    "towers: `plee` is none of `shared_bottom`, .* Did you mean `ple`?": {"towers": ["plee"]},
    "objectives: `task` is none of `tasks`, .* Did you mean `tasks`?": {"objectives": ["task"]},
    "towers: must be a list of names": {"towers": "ple"},
    "`tower=ple`: `--towers` names what is compared": {"overrides": ["tower=ple"]},
    "`tower.kind=ple`: none of the towers": {"overrides": ["tower.kind=ple"]},
    "`objective.kind=tasks`: `--objectives`": {"overrides": ["objective.kind=tasks"]},
    "`train.seed=3`: `--seeds` decides it": {"overrides": ["train.seed=3"]},
    "has the key `num_expert`. Did you mean `num_experts`?": {
        "overrides": ["tower.num_expert=3"],
        "towers": ["mmoe"],
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(spec: Path, message: str) -> None:
    pattern = message.replace("?", r"\?")
    with pytest.raises(SpecError, match=pattern):
        contestants_of(spec, **WRONG[message])


def test_all_wrong_names_are_told_at_once(spec: Path) -> None:
    with pytest.raises(SpecError, match=r"plee.*\n.*entire") as caught:
        contestants_of(spec, towers=["plee"], objectives=["entire"])
    assert len(str(caught.value).splitlines()) == 2
