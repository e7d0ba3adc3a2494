"""Search files: what they may say, and everything that is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recmtl import load_spec
from recmtl.config import RunConfig
from recmtl.errors import SpecError
from recmtl.spec import parse_yaml
from recmtl.studies.contestants import loaded_spec
from recmtl.studies.search import Choices, Range, SearchKey
from recmtl.studies.search_file import as_search_file, read_search
from tests.studies.worlds import write_world

GOOD = """# what we believe in
train.lr: {low: 1e-4, high: 1e-2, log: true}
train.epochs: {low: 1, high: 3}
train.clip: {low: 1, high: 10}
tower: {choices: [mmoe, ple]}
tower.num_levels: {choices: [1, 2]}
tower.expert_widths: {choices: [[8], [16, 8]]}
train.patience: {choices: [null, 1]}
features.user.dim: {choices: [4, 8]}
tasks.cvr.weight: {low: 0.5, high: 2.0}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), rows=8)


@pytest.fixture
def read(spec: Path, tmp_path: Path) -> Any:
    def load(more: Sequence[str]) -> RunConfig:
        return load_spec(spec, more)

    def call(search: str | dict[str, Any]) -> tuple[SearchKey, ...]:
        if isinstance(search, dict):
            return read_search(search, load)
        file = tmp_path / "search.yaml"
        file.write_text(search, encoding="utf-8")
        return read_search(file, load)

    return call


def test_keys_are_read_and_written(read: Any) -> None:
    found = read(GOOD)
    assert found == (
        Range("train.lr", 0.0001, 0.01, log=True),
        Range("train.epochs", 1, 3, is_whole=True),  # the schema takes no fraction
        Range("train.clip", 1, 10),
        Choices("tower", ("mmoe", "ple")),
        Choices("tower.num_levels", (1, 2)),  # a key of one of the towers
        Choices("tower.expert_widths", ([8], [16, 8])),
        Choices("train.patience", (None, 1)),
        Choices("features.user.dim", (4, 8)),
        Range("tasks.cvr.weight", 0.5, 2.0),
    )
    assert read(as_search_file(found, "again")) == found
    assert read({key.key: key.as_json() for key in found}) == found


def test_everything_that_is_wrong_is_said_at_once(read: Any, tmp_path: Path) -> None:
    lines = {
        "train.lrr: {low: 0.1, high: 1}": "0.1: train: unknown key `lrr`. Did you mean `lr`?",
        "train.lr: {low: 0.1, high: 0.1}": "`high` must be above `low`, got 0.1 and 0.1.",
        "train.clip: {low: 0, high: 1, log: true}": "`low` must be above 0 where `log` is, got 0.",
        "train.epochs: {lo: 1, high: 2}": "unknown key `lo`. Did you mean `low`?",
        "train.weight_decay: {high: 2}": "`low` is missing.",
        "train.batch_size: {low: a, high: [1]}": "`low` must be a number, got a.",
        "train.normalize: {choices: rows}": "`choices` must be a list, got rows.",
        "train.precision: {choices: [32-true], log: true}": "has `choices` and `log`.",
        "train.optimizer: {choices: [sgd, adam, sgd]}": "`choices` names sgd twice.",
        "wide: {choices: [fm, fmm]}": "fmm: wide: `kind` must be one of",
        "tower.dropout: 0.5": "must be `{low: 0.001, high: 0.1, log: true}` or",
        "train: {lr: {low: 1, high: 2}}": "A key of a section is dotted, as in `train.lr`.",
        "train.seed: {low: 0, high: 9}": "cannot be searched: the best of several seeds is",
        "data.valid: {choices: [a, b]}": "cannot be searched: validation rows of one trial",
        "tasks.ctr.label: {choices: [buy, click]}": "cannot be searched: trials would be judged",
        "train.embedding.lr: {low: -1, high: 0.1}": "`lr` must be above 0, got -1",
        "features.nobody.dim: {choices: [4]}": "no feature is called `nobody`.",
        "train.streams: {low: 1.5, high: 8.5, log: yes}": "`yes` without quotes",
    }
    with pytest.raises(SpecError) as caught:
        read("\n".join(lines))
    told = str(caught.value).splitlines()
    file = tmp_path / "search.yaml"
    for number, (line, expected) in enumerate(lines.items(), start=1):
        mine = [text for text in told if text.startswith(f"{file}:{number}: ")]
        assert any(expected in text for text in mine), (line, mine)
        key = line.partition(":")[0]
        assert any(f"`{key}`" in text or "`log`" in text for text in mine), mine
    numbers = [int(text.removeprefix(f"{file}:").partition(":")[0]) for text in told]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"search\.yaml:1: the file is empty\. Write `train\.lr: `"),
        ("- a", r"search\.yaml:1: the file is not a mapping"),
        ("train.lr: {low: 1", r"search\.yaml:\d+: this is not YAML"),
        ("a: {low: 1, high: 2}\na: {low: 1, high: 2}", r"search\.yaml:2: duplicate key `a`"),
    ],
)
def test_files_that_hold_no_search(read: Any, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read(text)


def test_a_mapping_is_named_as_such_and_a_file_by_its_path(read: Any, spec: Path) -> None:
    with pytest.raises(SpecError, match=r"^search:2: `wide`: must be"):
        read({"train.lr": {"low": 0.1, "high": 1}, "wide": "fm"})
    with pytest.raises(SpecError, match=r"none\.yaml: there is no such file\."):
        read_search(spec.parent / "none.yaml", lambda more: load_spec(spec, more))


def test_the_documented_file_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "feature_specs/README.md").read_text(encoding="utf-8")
    spec = re.search(r"```yaml\n(name: funnel\n.*?)```", page, re.DOTALL)
    search = re.search(r"## Search files\n.*?```yaml\n(.*?)```", page, re.DOTALL)
    assert spec is not None
    assert search is not None
    config = parse_yaml(RunConfig, spec[1])
    (tmp_path / "search.yaml").write_text(search[1], encoding="utf-8")
    found = read_search(tmp_path / "search.yaml", lambda more: loaded_spec(config, more))
    assert found[1] == Range("train.epochs", 1, 3, is_whole=True)
    assert Choices("tower", ("mmoe", "ple")) in found
    assert [key.is_ordered for key in found if isinstance(key, Choices)] == [
        *(True, False),
        *(False, True),  # lists of other lengths are no neighbours
    ]
