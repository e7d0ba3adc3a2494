from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from recmtl.config import (
    ObjectiveConfig,
    RunConfig,
    TrainConfig,
    dump_yaml,
    fingerprint,
    json_schema,
    load_spec,
    write_reference,
)
from recmtl.embeddings.config import EmbeddingConfig
from recmtl.errors import SpecError
from recmtl.spec import (
    DataSpec,
    DenseFeature,
    SequenceFeature,
    SparseFeature,
    Spec,
    SplitByTime,
    Task,
    Vocab,
    parse_yaml,
)
from recmtl.towers import TOWERS, ESMMConfig, MMoEConfig
from tests.strategies import run_configs

PAGE = Path("feature_specs/README.md")
FUNNEL = re.findall(
    r"```yaml\n(name: funnel\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
)[0]


def test_the_example_loads_exactly() -> None:
    assert parse_yaml(RunConfig, FUNNEL) == RunConfig(
        name="funnel",
        data=DataSpec(
            train="train.parquet",
            valid="valid.parquet",
            weight="sample_weight",
            group_by="user_id",
            segments=("device",),
            keep=("user_id", "item_id"),
            memory="1GiB",
        ),
        features=(
            SparseFeature(name="user_id", type="sparse", vocab=Vocab(min_count=2), dim=16),
            SparseFeature(name="item_id", type="sparse", hash=1_000_000, dim=16),
            SparseFeature(name="age", type="sparse", buckets=(18.0, 25.0, 35.0, 50.0), dim=4),
            SparseFeature(name="tags", type="sparse", vocab=Vocab(), dim=8, pooling="mean"),
            SequenceFeature(
                name="history",
                type="sequence",
                table="item_id",
                max_len=50,
                behaviour="click",
                keep_last=True,
            ),
            DenseFeature(
                name="price", type="dense", transform="log1p", normalize="standard", fill=0.0
            ),
        ),
        tasks=(
            Task(name="ctr", label="click"),
            Task(name="cvr", label="conversion", given="click"),
            Task(name="ctcvr", label="conversion", product_of=("ctr", "cvr")),
            Task(name="dwell", label="dwell_s", kind="regression", given="click", weight=0.2),
        ),
        objective=ObjectiveConfig(kind="tasks"),
        tower=MMoEConfig(num_experts=8, expert_widths=(256, 128), head_widths=(64,)),
        train=TrainConfig(
            batch_size=4096,
            epochs=1,
            lr=0.001,
            optimizer="adam",
            embedding=EmbeddingConfig(optimizer="rowwise_adagrad", lr=0.05, l2=0.0),
            monitor="cvr/auc",
            seed=0,
        ),
    )


def test_what_the_spec_says_about_itself() -> None:
    config = parse_yaml(RunConfig, FUNNEL)
    assert config.tables == ("user_id", "item_id", "age", "tags")
    assert config.labels == ("click", "conversion", "dwell_s")
    assert config.dim_of(config.sequences[0]) == 16
    assert config.data.memory_bytes == 2**30


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
@given(run_configs())
def test_spec_to_yaml_to_spec_is_the_identity(config: RunConfig) -> None:
    text = dump_yaml(config)
    again = parse_yaml(RunConfig, text)
    assert again == config
    assert fingerprint(again) == fingerprint(config)
    assert dump_yaml(again) == text


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=15)
@given(run_configs())
def test_what_is_written_fits_the_schema(config: RunConfig) -> None:
    data = json.loads(config.model_dump_json(exclude_none=True))
    assert not list(Draft202012Validator(json_schema()).iter_errors(data))


def test_defaults_of_objective() -> None:
    assert load("tower=mmoe").objective.kind == "tasks"
    assert load("tower=esmm").objective.kind == "entire_space"
    assert load("tower=esmm", "objective=tasks").objective.kind == "tasks"
    text = FUNNEL.replace("  - {name: ctcvr, label: conversion, product_of: [ctr, cvr]}", "  #")
    assert parse_yaml(RunConfig, text, overrides=["tower=esmm"]).objective.kind == "tasks"


def load(*overrides: str) -> RunConfig:
    text = FUNNEL.replace("objective: tasks", "#").replace("monitor: cvr/auc, ", "")
    return parse_yaml(RunConfig, text, overrides=overrides)


def test_monitor() -> None:
    assert (load().monitor, load().monitor_mode) == ("ctr/auc", "max")
    assert load("train.monitor=dwell/rmse").monitor_mode == "min"
    assert load("tasks.ctr.kind=regression", "tasks.ctcvr.product_of=null").monitor == "ctr/rmse"
    classes = ("tasks.ctr={name: ctr, label: stars, kind: multiclass, classes: 5}",)
    assert load(*classes, "tasks.ctcvr.product_of=null").monitor == "ctr/ne"
    for metric, mode in (("accuracy", "max"), ("logloss", "min"), ("ne", "min")):
        config = load(*classes, "tasks.ctcvr.product_of=null", f"train.monitor=ctr/{metric}")
        assert (config.monitor, config.monitor_mode) == (f"ctr/{metric}", mode)
    assert load("data.valid=null").monitor is None


def test_fingerprint_sees_values_and_not_spelling() -> None:
    shuffled = "\n".join(FUNNEL.replace("1_000_000", "1000000").split("\n")[:9])
    rest = FUNNEL[FUNNEL.index("features:") :].replace("0.001", "1e-3").replace("#", "# ")
    same = parse_yaml(RunConfig, rest + shuffled)
    assert fingerprint(same) == fingerprint(parse_yaml(RunConfig, FUNNEL))
    assert fingerprint(load("train.seed=1")) != fingerprint(load("train.seed=2"))


def test_fingerprint_leaves_out_where_tables_are_placed() -> None:
    moved = load("train.devices=4", "train.sharding={item_id: row_wise}")
    assert fingerprint(moved) == fingerprint(load())
    assert fingerprint(moved) != fingerprint(load("train.devices=4", "train.streams=4"))


def test_fingerprint_is_the_sha256_of_sorted_json() -> None:
    expected = hashlib.sha256(
        b'{"accept_leaks":[],"group_by":null,"keep":[],"memory":"1GiB","sample":null,"sampled":null,'
        b'"segments":["os"],"train":"logs/","valid":{"by":"ts","last":0.1},"weight":null}'
    )
    data = DataSpec(train="logs/", valid=SplitByTime(last=0.1, by="ts"), segments=("os",))
    assert fingerprint(data) == expected.hexdigest()


def test_load_spec(tmp_path: Path) -> None:
    file = tmp_path / "funnel.yaml"
    file.write_text(FUNNEL, encoding="utf-8")
    assert load_spec(file, ["tower=esmm", "objective=entire_space"]).tower == ESMMConfig()
    file.write_text(FUNNEL.replace("lr: 0.001", "lr: -1"), encoding="utf-8")
    with pytest.raises(SpecError, match=r"funnel\.yaml:25: train: `lr` must be above 0, got -1\."):
        load_spec(file)


def test_python_is_checked_as_strictly() -> None:
    data, tower = DataSpec(train="a"), MMoEConfig()
    tasks = (Task(name="ctr", label="click"), Task(name="ctr", label="buy"))
    features = (DenseFeature(name="click", type="dense"),)
    message = (
        "task `ctr`: another task has the same name(.|\n)*dense feature `click`: column `click`"
    )
    with pytest.raises(ValidationError, match=message):
        RunConfig(name="a", data=data, features=features, tasks=tasks, tower=tower)
    with pytest.raises(ValidationError, match="valid integer"):
        TrainConfig(batch_size=True)
    with pytest.raises(ValidationError, match="frozen"):
        data.train = "b"  # type: ignore[misc]


def test_a_run_config_is_a_spec() -> None:
    config = load()
    assert isinstance(config, Spec)
    assert Spec(**{name: getattr(config, name) for name in Spec.model_fields}).tables


def test_every_registered_tower_can_be_written() -> None:
    for config in TOWERS:
        assert load(f"tower={config().kind}").tower == config()  # type: ignore[attr-defined]


def schema_errors(text: str) -> list[str]:
    data = yaml.safe_load(text)
    return [error.json_path for error in Draft202012Validator(json_schema()).iter_errors(data)]


def test_the_schema_is_a_schema_and_knows_the_example() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert schema_errors(FUNNEL) == []
    assert schema_errors(FUNNEL.replace("tower: {kind: mmoe", "tower: ple #")) == []
    assert schema_errors(FUNNEL.replace("1_000_000", "'1_000_000'")) == []  # as YAML 1.2 reads it


@pytest.mark.parametrize("file", sorted(PAGE.parent.glob("*.yaml")), ids=lambda file: file.stem)
def test_specs_of_data_sets(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert load_spec(file).name == file.stem
    assert schema_errors(text) == []


@pytest.mark.parametrize(
    ("there", "instead", "where"),
    [
        ("kind: mmoe", "kind: mmoee", "$.tower"),
        ("num_experts", "num_levels", "$.tower"),
        ("dim: 16}", "dims: 16}", "$.features[0]"),
        ("1_000_000", "many", "$.features[1]"),
        ("objective: tasks", "objective: all", "$.objective"),
        ("keep:", "kep:", "$.data"),
        ("{batch_size: 4096", "{batch_size: 0", "$.train.batch_size"),
        ("given: click}", "givn: click}", "$.tasks[1]"),
    ],
)
def test_the_schema_finds_what_is_wrong(there: str, instead: str, where: str) -> None:
    assert schema_errors(FUNNEL.replace(there, instead, 1)) == [where]


def test_every_key_has_an_explanation() -> None:
    def undescribed(schema: Any, path: str) -> list[str]:
        found = []
        for key, value in schema.get("properties", {}).items():
            if not (value.get("description") or "$ref" in value or "const" in value):
                found.append(f"{path}.{key}")
        return found

    schema = json_schema()
    found = undescribed(schema, "")
    for name, definition in schema["$defs"].items():
        found += undescribed(definition, name)
    assert found == []


def test_reference_is_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(PAGE.read_bytes())
    write_reference(tmp_path)
    for name in ("README.md", "schema.json"):
        written = (PAGE.parent / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == written, "run `make docs`"


def test_overrides_on_the_page_work() -> None:
    text = PAGE.read_text(encoding="utf-8")
    overrides = re.findall(r"^\| `([a-z_.]+=[^`]+)` \|", text, re.MULTILINE)
    assert len(overrides) >= 8
    for override in overrides:
        load(override)


def test_snippets_on_the_page_load() -> None:
    text = PAGE.read_text(encoding="utf-8")
    snippets = [s for s in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if s != FUNNEL]
    for snippet in snippets:
        if snippet.startswith("- "):
            extra = "".join(
                f"  {line}\n" for line in snippet.splitlines() if "user_id," not in line
            )
            changed = re.sub(r"  - \{name: (history|price),.*\n", "", FUNNEL)
            parse_yaml(RunConfig, changed.replace("tasks:\n", f"{extra}tasks:\n"))
        elif snippet.startswith("valid:"):
            parse_yaml(RunConfig, re.sub(r"valid: .*", snippet.strip(), FUNNEL))
        elif snippet.startswith(("sampled:", "sample:")):
            parse_yaml(RunConfig, FUNNEL.replace("  valid:", f"  {snippet.strip()}\n  valid:", 1))
        elif not snippet.startswith("train.lr: {low"):  # a search file, which has its own test
            assert snippet.startswith("# yaml-language-server")


@pytest.mark.slow
def test_the_docs_command_writes_what_stands_here(tmp_path: Path) -> None:
    folder = tmp_path / "feature_specs"
    folder.mkdir()
    (folder / "README.md").write_bytes(PAGE.read_bytes())
    root = {"PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-m", "recmtl.config"], cwd=tmp_path, env=root, check=True)
    assert (folder / "schema.json").read_bytes() == (PAGE.parent / "schema.json").read_bytes()


@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "bf16-true", "64-true"])
def test_precision_that_fused_updates_forbid_is_refused_pitfall_T28(precision: str) -> None:
    with pytest.raises(SpecError, match=r"`precision` must be .*: tables are .* during backward"):
        load(f"train.precision={precision}")
