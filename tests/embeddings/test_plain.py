"""PlainLookup: inference with torch alone. That it agrees with ShardedLookup: test_sharded.py."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from recmtl.batch import Batch, Ragged
from recmtl.embeddings import PlainLookup
from recmtl.errors import CheckpointError
from tests.embeddings.world import DIMS, LOOKED_UP, ROWS, random_rows, to_batch, world_layout
from tests.reference.embeddings import look_up


def random_tables(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(ROWS[name], DIMS[name], generator=generator) for name in ROWS}


@pytest.mark.parametrize("stack_bytes", [0, 2**28])
def test_values_match_the_loops_pitfall_T37(stack_bytes: int) -> None:
    tables, rows = random_tables(), random_rows(16, seed=4)
    with torch.inference_mode():
        found = PlainLookup(world_layout(), tables, stack_bytes=stack_bytes)(to_batch(rows))
    tables64 = {name: table.double().numpy() for name, table in tables.items()}
    for b, row in enumerate(rows):
        for name, expected in look_up(LOOKED_UP, tables64, row).items():
            np.testing.assert_allclose(found[name][b], expected, rtol=1e-5, atol=1e-6)


def test_empty_lists_everywhere_and_a_single_row() -> None:
    lookup, rows = PlainLookup(world_layout(), random_tables()), random_rows(1, seed=0)
    rows[0] |= {"history": [], "gaps": [], "tags": [], "topics": [], "words": []}
    found = lookup(to_batch(rows))
    assert found["history"].shape == (1, 4, 8)
    assert not any(found[name].any() for name in ("history", "gaps", "tags", "topics", "words"))


def test_padding_is_zero_though_row_0_is_trained() -> None:
    tables = random_tables()
    found = PlainLookup(world_layout(), tables)(to_batch(random_rows(8, seed=2)))
    lengths = to_batch(random_rows(8, seed=2)).sequences["history"].lengths_B
    for row, length in zip(found["history"], lengths.tolist(), strict=True):
        assert not row[length:].any()


def test_large_tables_keep_their_memory() -> None:
    tables = random_tables()
    lookup = PlainLookup(world_layout(), tables, stack_bytes=0)
    ours = {buffer.data_ptr() for buffer in lookup.buffers()}
    assert {table.data_ptr() for table in tables.values()} <= ours


def test_state_dict_is_empty() -> None:
    assert not PlainLookup(world_layout(), random_tables()).state_dict()


def test_missing_and_foreign_tables_are_all_named() -> None:
    tables = random_tables() | {"user": torch.zeros(5, 8)}
    del tables["gaps"]
    expected = r"Table `user` is 5 x 8, the encoders say 11 x 8.*\nTable `gaps` is missing"
    with pytest.raises(CheckpointError, match=expected):
        PlainLookup(world_layout(), tables)


def test_large_ids_reach_their_row() -> None:
    lookup = PlainLookup(world_layout(), random_tables())
    batch = to_batch(random_rows(2, seed=0))
    batch.ids_FB[0] = torch.tensor([10, 0])
    torch.testing.assert_close(lookup(batch)["user"][0], random_tables()["user"][10])


@pytest.mark.slow
def test_exports_with_a_dynamic_number_of_rows() -> None:
    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lookup = PlainLookup(world_layout(), random_tables())

        def forward(
            self, ids_FB: torch.Tensor, values_N: torch.Tensor, lengths_B: torch.Tensor
        ) -> torch.Tensor:
            column = Ragged(values_N, lengths_B)
            weighted = Ragged(values_N, lengths_B, torch.ones_like(values_N, dtype=torch.float32))
            batch = Batch(
                ids_FB=ids_FB,
                dense_DB=torch.zeros(1, ids_FB.shape[1]),
                bags={"tags": column, "topics": weighted, "words": weighted},
                sequences={"history": column, "gaps": column},
                labels_BK=torch.zeros(ids_FB.shape[1], 0),
                weight_B=torch.ones(ids_FB.shape[1]),
                rows_B=torch.arange(ids_FB.shape[1]),
            )
            return torch.cat([v.flatten(1) for v in self.lookup(batch).values()], dim=1)

    def arguments(num_rows: int) -> tuple[torch.Tensor, ...]:
        lengths_B = torch.arange(num_rows) % 3
        values_N = torch.arange(int(lengths_B.sum())) % 5
        return torch.arange(3 * num_rows).reshape(3, num_rows) % 3, values_N, lengths_B

    rows, values = torch.export.Dim("rows", min=2), torch.export.Dim("values", min=2)
    program = torch.export.export(
        Flat(), arguments(4), dynamic_shapes=({1: rows}, {0: values}, {0: rows})
    )
    torch.testing.assert_close(program.module()(*arguments(7)), Flat()(*arguments(7)))


@pytest.mark.slow
def test_needs_neither_torchrec_nor_fbgemm_nor_lightning() -> None:
    code = """
import sys
for name in ("torchrec", "fbgemm_gpu", "lightning", "pytorch_lightning"):
    sys.modules[name] = None
from tests.embeddings.test_plain import PlainLookup, random_rows, random_tables, to_batch
from recmtl import checkpoint, models
from tests.embeddings.world import world_layout
print(len(PlainLookup(world_layout(), random_tables())(to_batch(random_rows(2, seed=0)))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("8", "")
