from __future__ import annotations

import re

import pytest

from recmtl.config import RunConfig
from recmtl.errors import SpecError
from recmtl.spec import SplitByKey, Vocab, parse_yaml
from recmtl.towers import DTRNConfig, FwFMConfig, MMoEConfig, PLEConfig

TEXT = """\
name: shop
data: {train: train.parquet}
features:
  - {name: user_id, type: sparse, vocab: {}, dim: 16}
  - {name: item.id, type: sparse, hash: 9, dim: 16}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
  - {name: ctcvr, label: buy, product_of: [ctr, cvr]}
tower: {kind: mmoe, num_experts: 3, head_widths: [8]}
"""


def load(*overrides: str) -> RunConfig:
    return parse_yaml(RunConfig, TEXT, source="shop.yaml", overrides=overrides)


def problems(*overrides: str) -> list[str]:
    with pytest.raises(SpecError, match="override") as caught:
        load(*overrides)
    return str(caught.value).split("\n")


def test_a_tower_by_its_kind_has_its_own_defaults() -> None:
    assert load("tower=ple").tower == PLEConfig()
    assert load("tower={kind: ple, num_levels: 1}").tower == PLEConfig(num_levels=1)
    assert load("tower=ple", "tower.num_levels=1").tower == PLEConfig(num_levels=1)
    one = PLEConfig(num_levels=1)
    assert load("tower=dtrn", "tower.head=ple").tower == DTRNConfig(head=PLEConfig())
    assert load("tower={kind: dtrn, head: ple}", "tower.head.num_levels=1").tower.head == one
    assert load("wide=fwfm").wide == load("wide.kind=fwfm").wide == FwFMConfig()
    assert load("wide=fwfm", "wide=none").network == load().tower
    assert load("sequence=din").sequence.kind == "din"


def test_a_key_of_the_tower_leaves_the_others() -> None:
    expected = MMoEConfig(num_experts=4, head_widths=(8,))
    assert load("tower.num_experts=4").tower == expected
    expected = MMoEConfig(num_experts=3, head_widths=(64, 32))
    assert load("tower.head_widths=[64, 32]").tower == expected


def test_objective() -> None:
    assert load("objective=entire_space").objective.kind == "entire_space"
    assert load("objective.kind=entire_space").objective.kind == "entire_space"
    assert load("objective={kind: tasks}", "tower=esmm").objective.kind == "tasks"


def test_sections_come_into_being() -> None:
    train = load("train.normalize=observed", "train.embedding.lr=1e-2", "train.lr=1e-4").train
    assert (train.normalize, train.embedding.lr, train.lr) == ("observed", 0.01, 0.0001)
    assert load("train={epochs: 2}").train.epochs == 2


def test_features_and_tasks_by_name() -> None:
    config = load(
        "features.user_id.dim=8", "tasks.ctr.weight=2", "features.user_id.vocab.min_count=3"
    )
    assert (config.sparse[0].dim, config.sparse[0].vocab) == (8, Vocab(min_count=3))
    assert config.tasks[0].weight == 2.0


def test_names_with_dots() -> None:
    assert load("features.item.id.hash=1_000").sparse[1].hash == 1000
    assert load("train.sharding.item.id=row_wise").train.sharding == {"item.id": "row_wise"}


def test_a_whole_feature() -> None:
    config = load("features.user_id={name: age, type: dense}")
    assert [f.name for f in config.features] == ["age", "item.id"]


def test_values_of_every_kind() -> None:
    data = load(
        "data.segments=[os, 'no']", "data.memory=2GiB", "data.valid={fraction: 0.1, by: user_id}"
    ).data
    assert (data.segments, data.memory) == (("os", "no"), "2GiB")
    assert data.valid == SplitByKey(fraction=0.1, by="user_id")
    assert load("data.valid=a.parquet", "data.valid=null").data.valid is None


def test_the_last_one_wins() -> None:
    assert load("train.epochs=2", "train.epochs=3").train.epochs == 3
    assert load("train.epochs=x", "train={epochs: 3}").train.epochs == 3


def test_an_override_mends_what_the_file_gets_wrong() -> None:
    text = TEXT.replace("num_experts: 3", "num_experts: no")
    overrides = ["tower.num_experts=3"]
    assert parse_yaml(RunConfig, text, overrides=overrides) == load()
    text = TEXT.replace("{kind: mmoe, num_experts: 3, head_widths: [8]}", "{kind: x, a: 1, a: 2}")
    assert parse_yaml(RunConfig, text, overrides=["tower=mmoe"]).tower == MMoEConfig()


WRONG = r"""
train.lr                       must be `key.sub=value`, such as `train.lr=0.01`.
=3                             must be `key.sub=value`, such as `train.lr=0.01`.
train.lr=                      has no value. Write `null` for none, or "" for an empty string.
data.memory=12:30              the value is `12:30`, which YAML reads as a number in base 60. ...
train.lr=no                    the value is `no` without quotes, which YAML reads as false. ...
train.lr=[1                    this is not YAML: while parsing a flow sequence; expected ...
train.lr=a                     train: `lr` must be a number, got the string `a`.
train.lrr=1                    train: unknown key `lrr`. Did you mean `lr`?
trian.lr=1                     unknown key `trian`. Did you mean `train`?
train.embedding.lr=true        train.embedding: `lr` must be a number, got true.
train.embedding.lrr=1          train.embedding: unknown key `lrr`. Did you mean `lr`?
train.monitor=ctr/auc          train: `monitor` needs validation rows. Give `data.valid`, ...
tower=plee                     tower: `kind` must be one of ..., got the string `plee`. Did you ...
tower.num_levels=2             tower: unknown key `num_levels`. Did you mean `num_experts`?
tower.head_widths=64           tower: `head_widths` must be a list, got 64.
tower.head_widths.0=64         `head_widths` is a list, and one of its items cannot be set. ...
features.user.dim=8            no feature is called `user`. Did you mean `user_id`?
features.zzz.dim=8             no feature is called `zzz`. Known: `user_id`, `item.id`.
tasks.ctrr.weight=2            no task is called `ctrr`. Did you mean `ctr`?
features.user_id.dims=8        sparse feature `user_id`: unknown key `dims`. Did you mean `dim`?
features.user_id.dim=6         sparse feature `user_id`: `dim` must be a multiple of 4, got 6.
name.a=1                       `name` is a value, not a section with keys.
balance.kind=pcgrad            key `balance` is reserved for a later version.
"""


@pytest.mark.parametrize("case", WRONG.strip().split("\n"), ids=lambda case: case.split()[0])
def test_wrong_override(case: str) -> None:
    override, message = case.split(maxsplit=1)
    (problem,) = problems(override)
    pattern = re.escape(f"override `{override}`: {message}").replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, problem)


def test_what_an_override_clashes_with_may_stand_in_the_file() -> None:
    with pytest.raises(SpecError, match=r"shop\.yaml:7: task `ctr`: `label` is the sample weight"):
        load("data.weight=click")


def test_all_wrong_overrides_at_once_after_the_files_own_problems() -> None:
    text = TEXT.replace("dim: 16}", "dim: 6}", 1)
    with pytest.raises(SpecError, match="override") as caught:
        parse_yaml(
            RunConfig,
            text,
            source="shop.yaml",
            overrides=["train.lr=0", "a.b=1", "features.x.dim=4"],
        )
    begins = [line.split(":")[0] for line in str(caught.value).split("\n")]
    assert begins == [
        "shop.yaml", "override `train.lr=0`", "override `a.b=1`", "override `features.x.dim=4`",
    ]  # fmt: skip


def test_an_empty_file_and_overrides() -> None:
    with pytest.raises(SpecError, match=r"missing key `data`") as caught:
        parse_yaml(RunConfig, "", source="x.yaml", overrides=["name=a"])
    assert "x.yaml:1: missing key `tower`" in str(caught.value)


def test_a_file_that_is_a_list() -> None:
    with pytest.raises(SpecError, match="override `name=a`: leads nowhere"):
        parse_yaml(RunConfig, "- a", overrides=["name=a"])
