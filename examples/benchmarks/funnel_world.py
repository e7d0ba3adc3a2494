"""The worlds that contestants are judged in, and what is kept of each."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from bench import recmtl

from recmtl._files import sha256_of
from recmtl.simulate.funnel_spec import FUNNEL_SPEC

__all__ = ["World", "digest"]


@dataclass(frozen=True)
class World:
    """A simulated funnel; its files are written when they are first asked for."""

    rows: int
    seed: int
    work: Path
    users: int = 5_000
    items: int = 2_000
    signal: float = 1.0

    @cached_property
    def data(self) -> Path:
        """The folder of the log, with the spec that comes with it."""
        sizes = {name: getattr(self, name) for name in ("rows", "seed", "users", "items", "signal")}
        folder = self.work / "-".join(f"{value:g}" for value in sizes.values()) / "data"
        spec = folder / "spec.yaml"
        is_there = (folder / "simulation.json").is_file() and spec.read_text() == FUNNEL_SPEC
        if not is_there:
            options = [part for name, value in sizes.items() for part in (f"--{name}", value)]
            recmtl("simulate", folder, *options, "--overwrite", "--json")
        return folder

    @cached_property
    def kept(self) -> Path:
        """The folder of what was made of this log, to the byte, and of no other."""
        parts = [sha256_of(self.data / f"{part}.parquet") for part in ("train", "valid", "test")]
        folder = self.data.parent / f"kept-{digest(parts)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What the simulator says: AUCs of the truth and of the best additive model."""
        found: dict[str, Any] = json.loads((self.data / "simulation.json").read_text())
        return found

    @cached_property
    def test(self) -> pl.DataFrame:
        """The rows to judge on, with the truth."""
        return pl.read_parquet(self.data / "test.parquet")


def digest(settings: object) -> str:
    """Eight digits that differ where the settings do."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
