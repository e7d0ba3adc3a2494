"""Training on one GPU: what the card can do, what a step takes of it, and feeding it from Parquet.

    python examples/benchmarks/gpu.py runs/workload --out gpu.json

Everything is measured in one run. The card: copying, random rows, matrix products in fp32, tf32 and
bf16. A step's floor is its layers' matrix products at that precision, plus FBGEMM's own lookup and
update. Then every tower in each precision: as it is, with `train.compile: graphs` and `compile`,
and beside the same network as Python loops over experts with an `nn.Embedding` a field and Adam
over everything. The share of launch gaps is the time in which no kernel runs. Last, `recmtl train`
from Parquet. Results are written after each part, and what `--seconds` leaves no time for is left
out. `--device cpu --rows 65536 --batch 4096` shows that the script works.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as nnf
import torchrec_way
import yaml
from bench import provenance
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from limits import _id_batches, layers, products
from rounds import markdown
from torch import nn
from torch.profiler import ProfilerActivity, profile
from workload import DENSE, DIM, IDS, SIZES, TOWERS, spec, write

from recmtl import api
from recmtl.batch import Batch
from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders, TrainStreams, open_splits
from recmtl.embeddings.sharded import shard
from recmtl.run import versions
from recmtl.training.module import MultiTaskModule
from recmtl.training.to_device import on_cuda

STEPS = 10
"""Steps of a contestant in one round."""
ROUNDS = 7
PRECISIONS = {"fp32": "highest", "tf32": "high", "bf16": "highest"}
"""Name -> what torch does with products of float32; bf16 is autocast."""


class Card:
    """The device that is measured, and its clock."""

    def __init__(self, kind: str) -> None:
        """Take the first device of a kind."""
        self.device = torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
        self.is_cuda = kind == "cuda"

    def ms(self, work: Callable[[], object]) -> float:
        """Milliseconds of a piece of work, by the device's own events."""
        if not self.is_cuda:
            begun = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - begun)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))

    def in_turns(
        self, contestants: dict[str, Callable[[], object]], times: int = STEPS
    ) -> dict[str, float]:
        """Median milliseconds of one call of each, over rounds in which they take turns."""
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(-1, ROUNDS):
            for name, work in contestants.items():
                took = self.ms(lambda work=work: [work() for _ in range(times)]) / times
                if turn >= 0:
                    found[name].append(took)
        return {name: statistics.median(values) for name, values in found.items()}


def rates(card: Card, batch_size: int) -> dict[str, float]:
    """What the device can do: GB/s, million random rows a second, TFLOP/s, milliseconds."""
    size, side = (1 << 28, 8192) if card.is_cuda else (1 << 22, 512)
    with card.device:
        source, target = torch.randn(size), torch.zeros(size)
        rows, ids = torch.randn(sum(SIZES), DIM), torch.randint(sum(SIZES), (1 << 22,))
        gathered = torch.empty(len(ids), DIM)
        left, right = torch.randn(side, side), torch.randn(side, side)
        out, halves = torch.empty(side, side), (left.bfloat16(), right.bfloat16())
    out_half = out.bfloat16()
    took = card.in_turns(
        {
            "copy": lambda: target.copy_(source),
            "gather": lambda: torch.index_select(rows, 0, ids, out=gathered),
        }
    )
    found = {
        "copy, GB/s read and written": 2 * source.nbytes / took["copy"] / 1e6,
        "random rows of 64 bytes, M/s": len(ids) / took["gather"] / 1e3,
        "FBGEMM's own op, ms": card.in_turns({"it": tables_op(card, batch_size)})["it"],
    }
    for name, precision in PRECISIONS.items():
        torch.set_float32_matmul_precision(precision)
        work = {
            "product": (lambda: torch.mm(*halves, out=out_half))
            if name == "bf16"
            else (lambda: torch.mm(left, right, out=out))
        }
        found[f"product of {side} x {side} in {name}, TFLOP/s"] = (
            2 * side**3 / card.in_turns(work)["product"] / 1e9
        )
    return found


def tables_op(card: Card, batch_size: int) -> Callable[[], object]:
    """FBGEMM's own lookup, backward and row-wise Adagrad of all tables."""
    where = (
        (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
        if card.is_cuda
        else (EmbeddingLocation.HOST, ComputeDevice.CPU)
    )
    op = SplitTableBatchedEmbeddingBagsCodegen(
        [(size, DIM, *where) for size in SIZES],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.02,
        eps=1e-8,
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    op.init_embedding_weights_uniform(-0.01, 0.01)
    offsets = torch.arange(len(SIZES) * batch_size + 1, device=card.device)
    batches = itertools.cycle([ids.to(card.device) for ids in _id_batches(batch_size)])
    grad_BD = torch.full((batch_size, DIM * len(SIZES)), 1e-6, device=card.device)
    return lambda: op(next(batches), offsets).backward(grad_BD)


class Floor(NamedTuple):
    """What a step cannot be faster than, in milliseconds."""

    products: float
    """The layers' matrix products at their own shapes."""
    tables: float
    """FBGEMM's own op."""
    roofline: float
    """FLOPs at the rate of large products, plus bytes of tables at the rate of a copy."""

    @property
    def total(self) -> float:
        """What `of floor` is measured against."""
        return self.products + self.tables


def floor_of(card: Card, tower: str, precision: str, batch: int, speed: dict[str, float]) -> Floor:
    """The floor of a tower's step, measured."""
    shapes = layers(yaml.safe_load(TOWERS[tower]))
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    with card.device:
        run = products(shapes, batch, torch.bfloat16 if precision == "bf16" else torch.float32)
    rate = next(v for k, v in speed.items() if f" in {precision}," in k)
    flops = sum(layer.flops for layer in shapes) * batch
    moved = 5 * batch * len(SIZES) * DIM * 4  # rows read twice and written, output and its gradient
    bound = flops / rate / 1e9 + moved / speed["copy, GB/s read and written"] / 1e6
    return Floor(card.in_turns({"it": run})["it"], speed["FBGEMM's own op, ms"], bound)


class Ours:
    """The module's own step on the device, without a Trainer."""

    def __init__(self, card: Card, config: RunConfig, encoders: Encoders, precision: str) -> None:
        """Build it as the strategy does."""
        self.said: list[str] = []
        self.module = MultiTaskModule(config, encoders)
        self.module.notify = self.said.append
        self.module.configure_model()
        self.module.tasks.to(card.device)
        sharded = shard(self.module.net, card.device, batch_size=config.train.batch_size)
        self.module.net = sharded.net
        self.module.on_fit_start()
        self.optimizer = self.module.configure_optimizers()
        self.autocast = _autocast(card, precision)

    def __call__(self, batch: Batch) -> None:
        """One step."""
        self.optimizer.push_lr()
        with self.autocast():
            loss = self.module.training_step(batch, 0)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Loops:
    """The same network as peers write it."""

    def __init__(self, card: Card, tower: str, sizes: list[int], precision: str) -> None:
        """An `nn.Embedding` a field, a `Sequential` an expert, Adam over everything."""
        torch.manual_seed(0)
        body = {
            "mmoe": torchrec_way._MMoE,
            "ple": torchrec_way._PLE,
            "esmm": torchrec_way._ESMM,
            "shared_bottom": torchrec_way._SharedBottom,
        }[tower]
        self.tables = nn.ModuleList(nn.Embedding(size, DIM) for size in sizes).to(card.device)
        self.body = body(len(DENSE) + DIM * len(sizes)).to(card.device)
        parameters = [*self.tables.parameters(), *self.body.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3)
        self.autocast = _autocast(card, precision)

    def __call__(self, batch: Batch) -> None:
        """One step."""
        self.optimizer.zero_grad()
        with self.autocast():
            pairs = zip(self.tables, batch.ids_FB, strict=True)
            vectors = [table(ids_B.long()) for table, ids_B in pairs]
            click, conversion = self.body(torch.cat([batch.dense_DB.T, *vectors], dim=1))
            click_B, conversion_B = batch.labels_BK.unbind(1)
            each_B = nnf.binary_cross_entropy_with_logits(
                conversion, conversion_B, reduction="none"
            )
            loss = nnf.binary_cross_entropy_with_logits(click, click_B) + (each_B * click_B).mean()
        loss.backward()
        self.optimizer.step()


def _autocast(card: Card, precision: str) -> Callable[[], Any]:
    if precision != "bf16":
        return contextlib.nullcontext
    return lambda: torch.autocast(card.device.type, dtype=torch.bfloat16)


class Log:
    """The log's encoders and some of its batches on the device: the same for every tower."""

    def __init__(self, card: Card, folder: Path, batch_size: int) -> None:
        """Read the log."""
        self.folder, self.batch_size = folder, batch_size
        self.encoders = Encoders.fit(self.config("mmoe"), folder)
        batches = itertools.islice(self.stream(seed=0), 8)
        self.batches = [batch.to(card.device) for batch in batches]

    def path(self, tower: str, epochs: int = 1) -> Path:
        """A spec file."""
        path = self.folder / f"gpu_{tower}.yaml"
        text = spec(tower, batch_size=self.batch_size, epochs=epochs)
        path.write_text(text, encoding="utf-8")
        return path

    def config(self, tower: str, kind: str = "none") -> RunConfig:
        """A tower's config."""
        return load_spec(self.path(tower), [f"train.compile={kind}"])

    def stream(self, seed: int) -> Iterator[Batch]:
        """Batches in shuffled order, on the host."""
        config = self.config("mmoe")
        streams = TrainStreams(
            open_splits(config, self.folder).train,
            self.encoders,
            batch_size=self.batch_size,
            seed=seed,
            memory_bytes=config.data.memory_bytes,
        )
        return streams.batches(0)


class Gaps(NamedTuple):
    """What a profile of some steps says."""

    share: float
    """Part of the time in which no kernel ran."""
    kernels: int
    """Kernels of a step."""
    longest: dict[str, float]
    """The kernels that took longest: milliseconds of a step."""
    tables: list[str]
    """FBGEMM's kernels."""


def gaps_of(card: Card, work: Callable[[], object], steps: int = 10) -> Gaps | None:
    """Where a step waits; nothing on a CPU."""
    if not card.is_cuda:
        return None
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            work()
        torch.cuda.synchronize()
    on_card = [e for e in recorded.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    spans = sorted((e.time_range.start, e.time_range.end) for e in on_card)
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    by_name: dict[str, float] = {}
    for e in on_card:
        by_name[e.name] = by_name.get(e.name, 0.0) + e.time_range.elapsed_us() / 1e3 / steps
    longest = dict(sorted(by_name.items(), key=lambda item: -item[1])[:12])
    tables = sorted(name for name in by_name if "split_embedding" in name)
    return Gaps(1 - busy / (reached - spans[0][0]), len(spans) // steps, longest, tables)


def steps_of(
    card: Card, log: Log, tower: str, precision: str, kinds: list[str]
) -> Iterator[dict[str, object]]:
    """Every way to run a tower's step, in turns; a row of results each."""
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    contestants: dict[str, Callable[[], object]] = {}
    said: dict[str, list[str]] = {}
    for kind in kinds:
        ours = Ours(card, log.config(tower, kind), log.encoders, precision)
        said[kind] = ours.said
        contestants[kind] = _next_of(ours, log.batches)
    loops = Loops(card, tower, [log.encoders.tables[name] for name in IDS], precision)
    contestants["loops"] = _next_of(loops, log.batches)
    took = card.in_turns(contestants)
    for name, ms in took.items():
        gaps = gaps_of(card, contestants[name])
        yield {
            "tower": tower,
            "precision": precision,
            "how": name,
            "ms": ms,
            "rows/s": log.batch_size / ms * 1e3,
            "said": said.get(name, []),
            "gaps": None if gaps is None else gaps._asdict(),
        }


def _next_of(step: Callable[[Batch], None], batches: list[Batch]) -> Callable[[], object]:
    endless = itertools.cycle(batches)
    return lambda: step(next(endless))


def feeding(card: Card, log: Log) -> dict[str, float]:
    """Rows a second from Parquet to batches on the host and on the device, without any step."""
    found = {}
    for where in ("host", "device"):
        batches = log.stream(seed=1)
        if where == "device" and card.is_cuda:
            batches = on_cuda(batches, card.device)
        begun, rows = time.perf_counter(), 0
        for batch in batches:
            rows += len(batch)
        if card.is_cuda:
            torch.cuda.synchronize()
        found[where] = rows / (time.perf_counter() - begun)
    return found


def end_to_end(log: Log, tower: str, precision: str, kind: str, epochs: int) -> dict[str, object]:
    """`recmtl train`, rows a second of its epochs."""
    path = log.path(tower, epochs)
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    overrides = [f"train.compile={kind}", "data.valid=null"]
    overrides += ["train.precision=bf16-mixed"] if precision == "bf16" else []
    with tempfile.TemporaryDirectory() as run:
        result = api.train(path, out=Path(run) / "run", overrides=overrides)
    return {"tower": tower, "precision": precision, "how": kind, "rows/s": result.rows_per_s}


def about(card: Card) -> str:
    """Commit, date, machine, card and versions."""
    try:
        text = provenance()
    except (OSError, subprocess.CalledProcessError):  # a copy without its repository
        text = ", ".join(f"{name} {version}" for name, version in versions().items())
    if not card.is_cuda:
        return text
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {text}"


def report(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = [found["about"], markdown(["the card", "rate"], found["rates"].items())]
    rows = []
    for step in found["steps"]:
        floor = found["floors"][f"{step['tower']} {step['precision']}"]
        gaps = step["gaps"]
        rows.append(
            [
                f"{step['tower']}, {step['precision']}, {step['how']}",
                step["ms"],
                round(step["rows/s"]),
                100 * (floor["products"] + floor["tables"]) / step["ms"],
                100 * floor["roofline"] / step["ms"],
                "" if gaps is None else 100 * gaps["share"],
                "" if gaps is None else gaps["kernels"],
            ]
        )
    head = ["step", "ms", "rows/s", "% of floor", "% of roofline", "% launch gaps", "kernels"]
    parts.append(markdown(head, rows))
    lines = [[f"Parquet to {k}", round(v)] for k, v in found.get("feeding", {}).items()]
    for run in found["train"]:
        name = f"train: {run['tower']}, {run['precision']}, {run['how']}"
        lines.append([name, round(run["rows/s"])])
    parts.append(markdown(["from Parquet", "rows/s"], lines))
    parts += [f"{text}\n" for text in dict.fromkeys(t for s in found["steps"] for t in s["said"])]
    kernels = sorted({k for s in found["steps"] if s["gaps"] for k in s["gaps"]["tables"]})
    parts += ["Kernels of the tables:\n" + "\n".join(f"- `{k[:120]}`" for k in kernels)]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Measure what there is time for; print tables and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rows", type=int, default=1 << 22, help="rows of the log, if not there")
    parser.add_argument("--batch", type=int, default=65_536)
    parser.add_argument("--towers", nargs="+", default=list(TOWERS), choices=list(TOWERS))
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--kinds", nargs="+", default=["none", "graphs", "compile"])
    parser.add_argument("--epochs", type=int, default=3, help="of `recmtl train`")
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    write(args.folder, args.rows)
    card = Card(args.device)
    backend = "nccl" if card.is_cuda else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]  # it is public
    found: dict[str, Any] = {"about": about(card), "rates": rates(card, args.batch)}
    found |= {"floors": {}, "steps": [], "train": []}
    log = Log(card, args.folder, args.batch)

    def keep() -> None:
        if args.out is not None:
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    pairs = [(tower, how) for how in args.precisions[::-1] for tower in args.towers]
    for tower, precision in pairs:
        if time.monotonic() > end - args.seconds / 3:
            break
        floor = floor_of(card, tower, precision, args.batch, found["rates"])
        found["floors"][f"{tower} {precision}"] = floor._asdict()
        compiles = tower in ("mmoe", "ple") and precision != "fp32"  # it takes its time
        kinds = [kind for kind in args.kinds if kind != "compile" or compiles]
        found["steps"] += steps_of(card, log, tower, precision, kinds)
        keep()
    dist.destroy_process_group()
    found["feeding"] = feeding(card, log)
    for tower, kind in itertools.product(args.towers, [k for k in args.kinds if k != "compile"]):
        if time.monotonic() < end:
            found["train"].append(end_to_end(log, tower, "bf16", kind, args.epochs))
            keep()
    sys.stdout.write(report(found))


if __name__ == "__main__":
    main()
