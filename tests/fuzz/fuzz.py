"""Coverage-guided fuzzing of everything that is read from files of a run.

``python tests/fuzz/fuzz.py TARGET [--seconds N] [--seed N]``

Whatever stands in a file, the answer is a value or a `RecMTLError`: no other exception, no hang, no
code that is executed, no file that is opened outside the folder that was given. A target gets a
folder with the valid files of a small run; one of them is changed, by raw bytes or by its
structure, with checksums that fit (as somebody who means harm would write them) or not.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["recmtl"]):
    from recmtl import checkpoint
    from recmtl.checkpoint.sealed import sealed
    from recmtl.config import load_spec
    from recmtl.data import Encoders
    from recmtl.errors import RecMTLError
    from recmtl.training.state import from_json

import polars as pl
import torch

from tests.data.strategies import FEATURES, TASKS, make_spec

WATCHED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class")
WATCHED += ("exec", "socket.connect", "ctypes.dlopen")
SECONDS_PER_INPUT = 60
LARGEST_INPUT = 4096

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.0, -0.5, 1e308, float("nan")),
    *(float("inf"), "", "a", "..", "../../etc/passwd", "/etc/passwd", "a/b", ".", "\x00", "é" * 50),
    *([], {}, [[]], {"a": {}}, [1, 2], ["a", 1], {"$tensor": [1]}, {"$float": "x"}, "int64"),
    *("string", "vocab", "hash", "buckets", "float32", [3, 4], [-1], [2**40, 2**40]),
)

Change = Callable[[Path, atheris.FuzzedDataProvider], None]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into a JSON value, the root left out."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inside:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def changed(value: Any, data: atheris.FuzzedDataProvider) -> Any:
    """The JSON value with one to three of its places changed, dropped or doubled."""
    value = copy.deepcopy(value)
    for _ in range(data.ConsumeIntInRange(1, 3)):
        paths = list(places(value)) if isinstance(value, dict | list) else []
        if not paths:
            return value
        path = paths[data.ConsumeIntInRange(0, len(paths) - 1)]
        inside = value
        for key in path[:-1]:
            inside = inside[key]
        what = data.ConsumeIntInRange(0, 4)
        new = copy.deepcopy(VALUES[data.ConsumeIntInRange(0, len(VALUES) - 1)])
        if what == 0:
            inside.pop(path[-1])
        elif what == 1 and isinstance(inside, dict):
            inside[data.ConsumeUnicodeNoSurrogates(8)] = new
        elif what == 2 and isinstance(inside[path[-1]], int | float):
            inside[path[-1]] = data.ConsumeInt(8)
        elif what == 3 and isinstance(inside[path[-1]], str):
            inside[path[-1]] = data.ConsumeUnicodeNoSurrogates(40)
        else:
            inside[path[-1]] = new
    return value


def changed_file(path: Path, data: atheris.FuzzedDataProvider) -> None:
    """Change a JSON file by its structure, or write other bytes."""
    if data.ConsumeBool():
        value = changed(json.loads(path.read_text(encoding="utf-8")), data)
        path.write_text(json.dumps(value), encoding="utf-8")
    else:
        path.write_bytes(data.ConsumeBytes(data.remaining_bytes()))


def damaged_file(path: Path, data: atheris.FuzzedDataProvider) -> None:
    """Write other bytes over a stretch of a file, or cut it."""
    content = bytearray(path.read_bytes())
    start = data.ConsumeIntInRange(0, len(content))
    if data.ConsumeBool():
        content = content[:start]
    else:
        new = data.ConsumeBytes(64)
        content[start : start + len(new)] = new
    path.write_bytes(bytes(content))


def spec(folder: Path, data: atheris.FuzzedDataProvider) -> None:
    """The spec file: YAML of any kind."""
    file = folder / "spec.yaml"
    if data.ConsumeBool():
        file.write_bytes(data.ConsumeBytes(data.remaining_bytes()))
    else:
        lines = file.read_text(encoding="utf-8").splitlines()
        for _ in range(data.ConsumeIntInRange(1, 4)):
            at = data.ConsumeIntInRange(0, len(lines) - 1)
            place = data.ConsumeIntInRange(0, len(lines[at]))
            rest = lines[at][place + data.ConsumeIntInRange(0, 3) :]
            lines[at] = lines[at][:place] + data.ConsumeUnicodeNoSurrogates(12) + rest
        file.write_text("\n".join(lines), encoding="utf-8")


def read_spec(folder: Path) -> None:
    load_spec(folder / "spec.yaml")


def index(folder: Path, data: atheris.FuzzedDataProvider) -> None:
    """checkpoints/index.json, with and without a seal that fits."""
    path = folder / "checkpoints" / "index.json"
    if data.ConsumeBool():
        changed_file(path, data)
        return
    value = json.loads(path.read_text(encoding="utf-8"))
    del value["sha256"]
    value = changed(value, data)
    if isinstance(value, dict):
        with contextlib.suppress(ValueError):  # NaN has no seal
            path.write_text(sealed(value), encoding="utf-8")


def read_index(folder: Path) -> None:
    found = checkpoint.read_index(folder / "checkpoints")
    for name in found:
        assert name is None or (folder / "checkpoints" / name).parent.name == "checkpoints"


def manifest(folder: Path, data: atheris.FuzzedDataProvider) -> None:
    """files.json of a checkpoint, and what it speaks of."""
    step = folder / "checkpoints" / "step-00000001"
    victim = data.ConsumeIntInRange(0, 3)
    if victim == 0:
        changed_file(step / "files.json", data)
    elif victim == 1:
        changed_file(step / "state.json", data)
        sign(step, "state.json")
    else:
        tensors = next(step.glob("*.safetensors"))
        damaged_file(tensors, data)
        if victim == 2:
            sign(step, tensors.name)


def read_checkpoint(folder: Path) -> None:
    step = folder / "checkpoints" / "step-00000001"
    checkpoint.verify(step)
    checkpoint.fingerprint(step)
    from_json(checkpoint.read_state(step))
    for tensor in checkpoint.load_full(step).values():
        assert tensor.numel() < 10_000


def encoders(folder: Path, data: atheris.FuzzedDataProvider) -> None:
    """The files of fitted encoders."""
    inside = folder / "encoders"
    victim = data.ConsumeIntInRange(0, 3)
    if victim == 0:
        changed_file(inside / "files.json", data)
    elif victim == 1:
        damaged_file(inside / "vocab-0000.parquet", data)
        sign(inside, "vocab-0000.parquet")
    else:
        changed_file(inside / "encoders.json", data)
        sign(inside, "encoders.json")


def read_encoders(folder: Path) -> None:
    loaded = Encoders.load(folder / "encoders")
    rows = pl.read_parquet(folder / "log.parquet")
    batch = loaded.encode(rows, labels=True)
    for f, table in enumerate(loaded.single):
        assert int(batch.ids_FB[f].min()) >= 0, table


def sign(folder: Path, name: str) -> None:
    """Record the checksum that a changed file has now."""
    path = folder / name
    sums = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if "files" in sums:
        sums["files"][name] = {"bytes": path.stat().st_size, "sha256": digest}
    else:
        sums[name] = digest
    (folder / "files.json").write_text(json.dumps(sums), encoding="utf-8")


TARGETS: dict[str, tuple[Change, Callable[[Path], None]]] = {
    "spec": (spec, read_spec),
    "index": (index, read_index),
    "checkpoint": (manifest, read_checkpoint),
    "encoders": (encoders, read_encoders),
}
"""What changes the files, and what reads them."""


def write_run(folder: Path) -> None:
    """Valid files of each kind."""
    frame = pl.DataFrame(
        {
            "user": [1, 2, 2, 3],
            "city": ["a", "b", None, "a"],
            "item": [5, 6, 7, 8],
            "brand": ["x", "y", "x", None],
            "age": [20.0, 31.0, None, 70.0],
            "tags": [["t"], [], None, ["u", "t"]],
            "tag_weights": [[1.0], [], None, [0.5, 2.0]],
            "history": [[5], [], [6, 7, 8, 5], None],
            "oldest": [[1, 2, 3], None, [], [4]],
            "look": [[1.0, 2.0, 3.0], None, [0.0, 0.0, 0.0], [4.0, 5.0, 6.0]],
            "price": [1.0, 2.0, None, 4.0],
            "gap": [-1.0, 0.0, 3.0, None],
            "text": [[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0]],
            "click": [1, 0, 1, 1],
            "buy": [1, 0, 0, 1],
            "dwell_s": [3.0, None, 4.0, 5.0],
        }
    )
    frame.write_parquet(folder / "log.parquet")
    Encoders.fit(make_spec(train="log.parquet"), folder).save(folder / "encoders")
    state = {"global_step": 1, "callbacks": {"A": {"$tuple": [1, {"$float": "inf"}]}}}
    state["loops"] = {"best": {"$tensor": [0.5], "dtype": "float32", "shape": []}}
    tensors = {"tables/user/weight": torch.ones(6, 4), "net/bias": torch.zeros(3)}
    checkpoint.save(folder / "checkpoints" / "step-00000001", tensors, state)
    checkpoint.write_index(folder / "checkpoints", best="step-00000001", last="step-00000001")
    parts = {"name": "a", "data": {"train": "log.parquet"}, "tower": {"kind": "mmoe"}}
    lines = [f"{key}: {json.dumps(value)}" for key, value in parts.items()]
    for key, items in (("features", FEATURES), ("tasks", TASKS)):
        lines += [f"{key}:", *(f"  - {json.dumps(item)}" for item in items)]
    (folder / "spec.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


class Guard:
    """Ends the process when the interpreter is made to do what no file may make it do."""

    def __init__(self, folder: Path) -> None:
        self.inside = tuple(str(p) for p in (folder, *map(Path, (sys.prefix, sys.base_prefix))))
        self.is_on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        bad = event in WATCHED and not (event == "exec" and _is_of_the_interpreter())
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            bad = not path.startswith((*self.inside, "/proc/", "/dev/", "/sys/"))
        if bad:
            self.is_on = False
            raise AssertionError(f"{event}{arguments!r}"[:300])


def _is_of_the_interpreter() -> bool:
    """Whether code runs because a module is imported or a type annotation of ours is read."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.endswith(("/typing.py", "importlib._bootstrap>")):
            return True
        frame = frame.f_back
    return False


def main() -> None:
    """Fuzz one target until the time is over; a finding ends with a traceback and another code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scratch = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    root = Path(tempfile.mkdtemp(prefix="recmtl-fuzz-", dir=scratch)).resolve()
    valid, work = root / "valid", root / "work"
    valid.mkdir()
    write_run(valid)
    guard, (change, read) = Guard(root), TARGETS[options.target]
    read(valid)
    shutil.copytree(valid, work)

    def one_input(content: bytes) -> None:
        shutil.rmtree(work)
        shutil.copytree(valid, work)
        change(work, atheris.FuzzedDataProvider(content))
        guard.is_on = True
        try:
            read(work)
        except RecMTLError as error:
            if not str(error).strip():
                raise AssertionError("an error without a message") from error
        finally:
            guard.is_on = False

    corpus = root / "corpus"
    corpus.mkdir()
    (corpus / "spec").write_bytes(b"\x01" + (valid / "spec.yaml").read_bytes())
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={options.seconds}",
        f"-timeout={SECONDS_PER_INPUT}",
        f"-max_len={LARGEST_INPUT}",
        f"-seed={options.seed}",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
        f"-artifact_prefix={root}/",
    ]
    atheris.Setup(arguments, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
