"""Preparers as modules, and the owners' files as the tests write them."""

from __future__ import annotations

import gzip
import os
import runpy
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
REAL_DATA = os.environ.get("RECMTL_REAL_DATA")


def load(name: str) -> SimpleNamespace:
    """A preparer, with the path of its spec."""
    names = runpy.run_path(str(ROOT / "datasets" / name / "prepare.py"))
    return SimpleNamespace(**names, spec=ROOT / "feature_specs" / f"{name}.yaml")


def write_lines(path: Path, lines: Iterable[str], how: str = "plain") -> None:
    """Lines as a plain, gzipped or zipped file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(line + "\n" for line in lines)
    if how == "gz":
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))
    elif how == "zip":
        with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"folder/{path.name}", text)
    else:
        path.write_text(text, encoding="utf-8")
