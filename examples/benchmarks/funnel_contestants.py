"""Who is judged on the simulated funnel: what each one predicts for the test rows.

Predictions are kept as Parquet, with what was chosen as JSON beside it, under a name that holds
their settings; what is there is not made again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench import train_once
from boosting import Columns, Data, Grid, boosted
from funnel_world import World, digest
from peers_processes import environment

from recmtl import BatchScorer
from recmtl._files import atomic_path, write_json

__all__ = ["ASKED", "OURS", "Contestant", "asked", "factorised", "ours", "rechub", "trees"]

ASKED = "ours, asked at random"
OURS = {"clicks only": "tasks", "entire space": "entire_space"}
"""Name -> objective."""
LABELS = {"ctr": "click", "ctcvr": "conversion"}
FACTORISED = {"mf": "matrix factorisation", "fm": "factorisation machine"}
COLUMNS = Columns(
    names=("age", "gender", "device", "hour", "category", "brand", "price"),
    keys=("user_id", "item_id"),
    numeric=("age", "hour"),
    counts=True,
)
GRID = Grid(rounds=(50, 100, 200, 400), leaves=(7, 15, 31), rates=(0.03, 0.1), early_stopping=False)
RECHUB_EPOCHS = 10
_HERE = Path(__file__).parent / "contestants"

Made = tuple[pl.DataFrame, dict[str, Any]]


@dataclass(frozen=True)
class Contestant:
    """Probabilities of the test rows: columns `ctr`, `ctcvr` and, if it has one, `cvr`."""

    name: str
    runs: Sequence[pl.DataFrame] = ()
    """One frame a training seed; none where it could not be run."""
    notes: Sequence[dict[str, Any]] = field(default=())
    """What was chosen, for each run."""
    problem: str = ""
    """Why it could not be run."""

    @property
    def is_ours(self) -> bool:
        """Whether it is of this package."""
        return self.name.startswith("ours")


def ours(world: World, objective: str, seeds: int) -> Contestant:
    """The spec that the simulator writes, as it stands but for the objective and the seed."""
    spec = world.data / "spec.yaml"
    runs = []
    for seed in range(seeds):
        settings = {"spec": spec.read_text(), "objective": OURS[objective], "seed": seed}
        name = f"ours-{OURS[objective]}-{seed}-{digest(settings)}"

        def make(name: str = name, seed: int = seed) -> Made:
            run = world.kept / f"{name}.run"
            train_once(run, spec, f"objective={OURS[objective]}", f"train.seed={seed}")
            scores = BatchScorer(run, keep=())(world.test)
            tasks = ("ctr", "cvr", "ctcvr")
            return scores.select(pl.col(f"probs_{task}").alias(task) for task in tasks), {}

        runs.append(_once(world.kept / name, make))
    return _contestant(f"ours, {objective}", runs)


def asked(world: World, seeds: int) -> Contestant:
    """An experiment: the same network, whose CVR learns from impressions drawn at random.

    As many as were clicked, and of each what a click would have led to. What it has ahead of
    learning from clicks is what the selection of clicks costs.
    """
    folder = world.kept / "asked"
    folder.mkdir(exist_ok=True)
    spec = (world.data / "spec.yaml").read_text()
    for old, new in (
        ("- {name: cvr,   label: conversion, given: click}", "- {name: cvr, label: asked}"),
        ("  - {name: ctcvr, label: conversion, product_of: [ctr, cvr]}\n", ""),
    ):
        if old not in spec:
            return Contestant(ASKED, problem="the spec has other tasks")
        spec = spec.replace(old, new)
    (folder / "spec.yaml").write_text(spec)
    rng = np.random.default_rng([world.seed, 9])
    for part in ("train", "valid"):
        frame = pl.read_parquet(world.data / f"{part}.parquet")
        is_asked = np.zeros(frame.height, bool)
        is_asked[rng.permutation(frame.height)[: frame["click"].sum()]] = True
        potential = pl.when(pl.Series(is_asked)).then(pl.col("conversion_potential"))
        frame.with_columns(potential.alias("asked")).write_parquet(folder / f"{part}.parquet")
    runs = []
    for seed in range(seeds):
        name = f"asked-{seed}-{digest([spec, seed])}"

        def make(name: str = name, seed: int = seed) -> Made:
            run = world.kept / f"{name}.run"
            train_once(run, folder / "spec.yaml", f"train.seed={seed}")
            scores = BatchScorer(run, keep=())(world.test)
            ctr, cvr = pl.col("probs_ctr"), pl.col("probs_cvr")
            return scores.select(ctr=ctr, cvr=cvr, ctcvr=ctr * cvr), {}

        runs.append(_once(world.kept / name, make))
    return _contestant(ASKED, runs)


def rechub(world: World, seeds: int, envs: Path) -> Contestant:
    """torch-rechub's MMoE, in its own environment."""
    name, runs = "torch-rechub MMoE", []
    for seed in range(seeds):
        out = world.kept / f"rechub-{RECHUB_EPOCHS}-{seed}"
        if not out.with_suffix(".json").is_file():
            try:
                python = environment("torch-rechub", envs.absolute())
            except (OSError, subprocess.CalledProcessError) as error:
                sys.stderr.write(f"{error}\n")
                return Contestant(name, problem="its environment could not be made")
            try:
                options = ("--seed", seed, "--epochs", RECHUB_EPOCHS)
                _run(python, "funnel_rechub.py", world, out, *options)
            except (OSError, subprocess.CalledProcessError) as error:
                return Contestant(name, problem=str(error).rstrip("."))
        runs.append((pl.read_parquet(out.with_suffix(".parquet")), _read(out)))
    return _contestant(name, runs)


def factorised(world: World, kind: str) -> Contestant:
    """Matrix factorisation (`mf`) or the factorisation machine (`fm`): one model a label.

    The script knows what it has tried, so it is always asked.
    """
    columns, notes = {}, {}
    for task, label in LABELS.items():
        out = world.kept / f"{kind}-{label}"
        _run(
            Path(sys.executable),
            "funnel_factorisation.py",
            *(world, out, "--kind", kind, "--label", label),
        )
        logit = pl.read_parquet(out.with_suffix(".parquet"))["logit"].to_numpy()
        columns[task], notes[task] = 1 / (1 + np.exp(-logit.astype(np.float64))), _read(out)
    return _contestant(FACTORISED[kind], [(pl.DataFrame(columns), notes)])


def trees(world: World) -> Contestant:
    """Gradient boosting: one model a label."""

    def make() -> Made:
        parts = (pl.read_parquet(world.data / f"{part}.parquet") for part in ("train", "valid"))
        found = boosted(Data(*parts, world.test), tuple(LABELS.values()), COLUMNS, GRID)
        models = {task: found[label] for task, label in LABELS.items()}
        notes = {task: m.chosen | {"valid_auc": m.valid_auc} for task, m in models.items()}
        return pl.DataFrame({task: m.test_probs for task, m in models.items()}), notes

    name = f"trees-{digest([repr(COLUMNS), repr(GRID)])}"
    return _contestant("gradient boosting", [_once(world.kept / name, make)])


def _contestant(name: str, runs: Sequence[Made]) -> Contestant:
    return Contestant(name, [frame for frame, _ in runs], [notes for _, notes in runs])


def _once(out: Path, make: Callable[[], Made]) -> Made:
    """What is kept under `out`, made if it is not there."""
    if not out.with_suffix(".json").is_file():
        frame, notes = make()
        with atomic_path(out.with_suffix(".parquet")) as path:
            frame.write_parquet(path)
        write_json(out.with_suffix(".json"), notes)
    return pl.read_parquet(out.with_suffix(".parquet")), _read(out)


def _read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return found


def _run(python: Path, script: str, world: World, out: Path, *options: object) -> None:
    """Run a contestant's script; it writes `OUT.parquet` and then `OUT.json`."""
    command = [python, _HERE / script, world.data.absolute(), out.absolute(), *options]
    quiet = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    quiet.pop("PYTHONPATH", None)  # of this interpreter
    log = out.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*map(str, command)], stdout=file, stderr=file, env=quiet, check=False
        )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, f"{script} (see {log})")
