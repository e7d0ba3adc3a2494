"""Write `vectors.json`: values, their hashes, and the rows of tables that they look up.

    python examples/hashing/make_vectors.py [OUT]

The hashes come from `recmtl.data.hashing`, the rows from the encoder of features with `hash`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl

from recmtl.data.hashing import splitmix64, xxh3_64
from recmtl.data.mappers import HashMapper

SIZES = (1, 7, 1000, 2**20, 2**40)
INTEGERS = (
    *(0, 1, -1, 2, 10, 255, -128, 65_536, 16_777_217, 2**31 - 1, -(2**31), 2**32, 1_234_567),
    *(10**12, 2**53 + 1, 2**63 - 1, -(2**63)),
)
TEXTS = ("", "0", "1", "-1", "abc", "user_42", " padded ", "Zürich", "ルータ", "🛒", "e\u0301")
LENGTHS = (
    *(2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 96, 97, 128, 129, 200, 239, 240, 241, 256, 512),
    *(1023, 1024, 1025, 1088, 2048, 3000),
)
"""Every branch of XXH3, and both sides of each of its borders."""
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def text_of(length: int) -> str:
    """A text of so many bytes, in which no block is like another."""
    return "".join(ALPHABET[(i * i + i // 7 + length) % len(ALPHABET)] for i in range(length))


def vectors() -> list[dict[str, object]]:
    """All vectors: a value, its hash, and its row in tables of several sizes."""
    strings = [*TEXTS, *map(text_of, LENGTHS)]
    found: list[dict[str, object]] = []
    for family, column in (
        ("int", pl.Series([*INTEGERS, None], dtype=pl.Int64)),
        ("string", pl.Series([*strings, None], dtype=pl.String)),
    ):
        hashes = (
            xxh3_64(column) if family == "string" else splitmix64(column.fill_null(0).to_numpy())
        )
        rows = {size: HashMapper(size, family)(column).tolist() for size in SIZES}
        for i, value in enumerate(column.to_list()):
            vector: dict[str, object] = {"family": family, "value": value}
            if value is not None:
                vector["value"] = str(value)
                vector["utf8"] = str(value).encode().hex()
                vector["hash"] = f"{hashes[i]:016x}"
            found.append(vector | {"rows": {f"{size}": row[i] for size, row in rows.items()}})
    return found


def main(out: Path) -> None:
    """Write one vector a line."""
    lines = ",\n".join(f"  {json.dumps(vector)}" for vector in vectors())
    out.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("vectors.json"))
