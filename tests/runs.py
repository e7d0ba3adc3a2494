"""What tests do to run folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from recmtl._files import is_leftover, sha256_of
from recmtl.checkpoint import load_full, read_index
from recmtl.checkpoint.sealed import read_sealed, sealed


def copied(run: Path, folder: Path) -> Path:
    """A copy of the run, without the page that another test may have written into it."""
    without_page = shutil.ignore_patterns("report.html")
    return Path(shutil.copytree(run, folder / "copy", ignore=without_page))


def change_state(run: Path, **changes: Any) -> None:
    """Change `run.json`, as if recmtl had written it so."""
    file = run / "run.json"
    file.write_text(sealed({**read_sealed(file), **changes}), encoding="utf-8")


def settle(run: Path) -> None:
    """Let `run.json` know the files as they are, but for those that are gone."""
    names = read_sealed(run / "run.json")["files"]
    sums = {name: sha256_of(run / name) for name in names if (run / name).is_file()}
    change_state(run, files=sums)


def interrupt(run: Path) -> None:
    """Make a finished run one whose training goes on: a killed process left it so."""
    files = read_sealed(run / "run.json")["files"]
    early = {name: files[name] for name in ("config.yaml", "encoders/files.json")}
    change_state(run, status="running", summary=None, files=early)


def metric_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def run_differences(run: Path, other: Path) -> dict[str, str]:
    """What differs between two finished runs: `{}` where they are the same to the last bit.

    Left out is what depends on time and machine: `rows_per_s`, `versions.json`, `logs/`, the page,
    and `plan.txt`, which says how many processes trained.
    """
    found = {}
    ours, theirs = (read_sealed(folder / "run.json") for folder in (run, other))
    for key in ("status", "config", "data"):
        if ours[key] != theirs[key]:
            found[f"run.json {key}"] = f"{ours[key]} and {theirs[key]}"
    for key in ("best", "epochs"):
        if ours["summary"][key] != theirs["summary"][key]:
            found[f"run.json {key}"] = f"{ours['summary'][key]} and {theirs['summary'][key]}"
    same = ("metrics.jsonl", "validation.json", "reference.json", "config.yaml")
    for name in (*same, "encoders/files.json"):
        if (run / name).read_bytes() != (other / name).read_bytes():
            found[name] = "other bytes"
    indexes = [read_index(folder / "checkpoints") for folder in (run, other)]
    if indexes[0] != indexes[1]:
        return {**found, "index.json": f"{indexes[0]} and {indexes[1]}"}
    for name in {*indexes[0]}:
        tensors, expected = (load_full(f / "checkpoints" / str(name)) for f in (run, other))
        files = [(f / "checkpoints" / str(name) / "files.json").read_bytes() for f in (run, other)]
        if files[0] != files[1]:
            found[f"{name}/files.json"] = "other bytes"
        if tensors.keys() != expected.keys():
            found[f"{name}"] = "other tensors"
        for key in tensors.keys() & expected.keys():
            if not torch.equal(tensors[key], expected[key]):
                largest = (tensors[key].double() - expected[key].double()).abs().max().item()
                found[f"{name} {key}"] = f"up to {largest:.1e}"
    return found


def score_differences(scores: Path, other: Path) -> dict[str, str]:
    """What differs between two folders of scores: `{}` where all their files have equal bytes."""
    ours, theirs = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (scores, other))
    return {
        name: "other bytes" if name in ours.keys() & theirs.keys() else "only in one of them"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    }


def leftovers(folder: Path) -> list[str]:
    """What killed processes left in a folder, and beside it."""
    beside = [path for path in folder.parent.iterdir() if is_leftover(path.name, folder.name)]
    within = [path for path in folder.rglob(".*") if is_leftover(path.name)]
    named = {"index.json", *read_index(folder / "checkpoints")}
    within += [p for p in folder.glob("checkpoints/*") if p.name not in named]
    return sorted(str(path.relative_to(folder.parent)) for path in {*beside, *within})
