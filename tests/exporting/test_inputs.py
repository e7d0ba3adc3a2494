"""What an exported model takes: names, shapes, padded lists, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recmtl.errors import DataError, SpecError
from recmtl.exporting.inputs import calls_of, inputs_of, require_inputs, tensors_of
from recmtl.spec import Spec
from tests.embeddings.world import SPEC, random_rows, to_batch, world_layout

INPUTS = inputs_of(SPEC, world_layout())


def given(count: int = 6) -> dict[str, Tensor]:
    return tensors_of(to_batch(random_rows(count, seed=2)), SPEC, INPUTS)


def test_names_follow_the_spec() -> None:
    lists = {"history": 4, "tags": "values of tags", "gaps": 4}
    expected = ["price", "user", "history", "history.lengths", "item.id", "type", "tags"]
    expected += ["tags.lengths", "topics", "topics.lengths", "topics.weights"]
    expected += ["words", "words.lengths", "words.weights", "gaps", "gaps.lengths"]
    assert [each.name for each in INPUTS] == expected
    shapes = {each.name: each.shape for each in INPUTS}
    assert shapes["user"] == shapes["price"] == shapes["tags.lengths"] == ("rows",)
    assert {name: shapes[name][1] for name in lists} == lists
    assert shapes["topics.weights"] == shapes["topics"]


def test_lists_are_padded_behind_their_values() -> None:
    rows = random_rows(9, seed=4)
    found = tensors_of(to_batch(rows), SPEC, INPUTS)
    for name in ("history", "tags", "topics", "words", "gaps"):
        longest = 4 if name in ("history", "gaps") else max(len(row[name]) for row in rows)
        assert found[name].shape == (9, longest)
        for b, row in enumerate(rows):
            ids = [i for i, _ in row[name]]
            assert found[name][b].tolist() == ids + [0] * (longest - len(ids))
            assert found[f"{name}.lengths"][b] == len(ids)
            if f"{name}.weights" in found:
                weights = [w for _, w in row[name]]
                assert found[f"{name}.weights"][b, : len(ids)].tolist() == weights
    assert found["price"].tolist() == pytest.approx([row["price"][0][1] for row in rows])
    assert found["item.id"].tolist() == [row["item.id"][0][0] for row in rows]


def test_one_long_list_does_not_widen_thousands_of_rows() -> None:
    rows = random_rows(16, seed=6) * 256
    rows[77] = {**rows[77], "tags": [(1, 1.0)] * 20_000}
    whole, parts = to_batch(rows), []
    calls = list(calls_of(whole, SPEC, INPUTS))
    assert len(calls) < 20
    for part, tensors in calls:
        assert all(torch.equal(tensors[n], t) for n, t in tensors_of(part, SPEC, INPUTS).items())
        assert tensors["tags"].numel() <= 1 << 22
        parts.append(part)
    assert torch.equal(torch.cat([part.ids_FB for part in parts], dim=1), whole.ids_FB)
    lengths = torch.cat([tensors["tags.lengths"] for _, tensors in calls])
    assert torch.equal(lengths, whole.bags["tags"].lengths_B)
    (alone,) = calls_of(to_batch(random_rows(4096, seed=7)), SPEC, INPUTS)
    assert len(alone[0]) == 4096


def test_a_call_without_a_value_has_one_place() -> None:
    rows = [{**row, "tags": []} for row in random_rows(3, seed=5)]
    assert tensors_of(to_batch(rows), SPEC, INPUTS)["tags"].shape == (3, 1)


def test_right_inputs_pass_in_any_order() -> None:
    tensors = given()
    backwards = dict(reversed(list(tensors.items())))
    assert list(require_inputs(INPUTS, backwards)) == [each.name for each in INPUTS]
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    assert torch.equal(require_inputs(INPUTS, arrays)["tags"], tensors["tags"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("user", torch.zeros(6), "`user`: is torch.float32, expected torch.int64"),
        ("user", torch.full((6,), 11), "`user`: holds 11, expected 0 to 10"),
        ("tags", torch.full((6, 2), -1), "`tags`: holds -1, expected 0 or more"),
        (
            "user",
            torch.zeros(5, dtype=torch.int64),
            r"`user`: has shape \[5\], expected \['rows'\]",
        ),
        ("gaps", torch.zeros(6, 3, dtype=torch.int64), r"`gaps`: has shape \[6, 3\]"),
        ("gaps.lengths", torch.full((6,), 5), "`gaps.lengths`: holds 5, expected 0 to 4"),
        ("tags.lengths", torch.full((6,), 9), "`tags.lengths`: is 9 where there are [0-3] places"),
        ("price", torch.zeros(6, 1), r"`price`: has shape \[6, 1\]"),
    ],
)
def test_wrong_input_is_named(name: str, value: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_inputs(INPUTS, {**given(), name: value})


def test_missing_and_foreign_inputs_are_named_together() -> None:
    tensors = {**given(), "colour": torch.zeros(6)}
    del tensors["price"]
    with pytest.raises(DataError, match=r"`price` is missing.\ninput `colour` is not the model's."):
        require_inputs(INPUTS, tensors)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="has no rows"):
        require_inputs(INPUTS, {name: tensor[:0] for name, tensor in given().items()})


def test_two_inputs_of_one_name_are_refused() -> None:
    features = ({"name": "tags.lengths", "type": "dense"}, *SPEC.model_dump()["features"])
    spec = Spec.model_validate({**SPEC.model_dump(), "features": features})
    with pytest.raises(SpecError, match=r"two inputs called `tags\.lengths`"):
        inputs_of(spec, world_layout())
