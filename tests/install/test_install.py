"""The built wheel, installed as the README says, works outside the repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRAINING_ONLY = {"torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "lightning", "torchmetrics"}
SCORING_ONLY = {"polars", "polars-hash", "pyarrow", "pydantic", "pyyaml", "safetensors", "click"}


class Environment:
    """A virtual environment of its own, and an empty folder in which its commands run."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "venv" / "bin"
        self.cwd = folder / "elsewhere"
        self.cwd.mkdir(parents=True)
        venv.create(folder / "venv", with_pip=True, symlinks=True)

    def run(self, *command: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        hidden = ("PYTHON", "VIRTUAL_ENV", "RECMTL_", "COV_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        environment["PATH"] = f"{self.bin}{os.pathsep}{environment['PATH']}"
        environment["PIP_NO_COMPILE"] = "1"  # most of torch's files are never imported
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def recmtl(self, *arguments: str | Path) -> dict[str, object]:
        """What a command prints with `--json`."""
        printed = self.run(self.bin / "recmtl", *arguments, "--json").stdout
        value: dict[str, object] = json.loads(printed)
        return value

    def distributions(self) -> set[str]:
        listed = self.run(self.bin / "python", "-m", "pip", "list", "--format=json").stdout
        return {item["name"].lower().replace("_", "-") for item in json.loads(listed)}


def remove(folder: Path) -> None:
    """Remove tens of thousands of files, sooner than Python would."""
    subprocess.run(["rm", "-rf", folder], check=True)


def readme_install(extra: str, wheel: Path) -> list[list[str]]:
    """The commands of one row of the README's install table, for the wheel built here.

    The row is the one that installs `recmtl[extra]` (`recmtl` alone for no extra).
    """
    wanted = f"recmtl[{extra}]" if extra else "recmtl"
    named = f"{wheel}[{extra}]" if extra else str(wheel)
    for row in (ROOT / "README.md").read_text().splitlines():
        commands = [shlex.split(code) for code in re.findall(r"`(pip install [^`]+)`", row)]
        if any(wanted in words for words in commands):
            return [[named if word == wanted else word for word in words] for words in commands]
    raise AssertionError(f"README.md has no row with `pip install '{wanted}'`")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True)
    (found,) = folder.glob("recmtl-*.whl")
    return found


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Environment]:
    """Towers alone."""
    folder = tmp_path_factory.mktemp("core")
    environment = Environment(folder)
    for command in readme_install("", wheel):
        environment.run(*command, "--quiet")
    yield environment
    remove(folder)


@pytest.fixture(scope="module")
def with_rechub(
    tmp_path_factory: pytest.TempPathFactory, core: Environment
) -> Iterator[Environment]:
    """Towers alone, in a stack of torch-rechub's; torch itself is that of `core`."""
    folder = tmp_path_factory.mktemp("rechub")
    environment = Environment(folder)
    (packages,) = core.bin.parent.glob("lib/python*/site-packages")
    (own,) = environment.bin.parent.glob("lib/python*/site-packages")
    (own / "core.pth").write_text(f"{packages}\n")
    environment.run("pip", "install", "--quiet", "torch-rechub==0.9.0")
    yield environment
    remove(folder)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Iterator[Environment]:
    """The CPU laptop, with a small model trained in its `elsewhere/run`."""
    folder = tmp_path_factory.mktemp("laptop")
    environment = Environment(folder)
    for command in readme_install("cpu", wheel):
        environment.run(*command, "--quiet")
    environment.recmtl("simulate", "data", "--rows", "4000", "--seed", "1")
    small = ("tower=ple", "tower.expert_widths=[8]", "train.batch_size=512")
    environment.recmtl("train", "data/spec.yaml", "--out", "run", *small)
    yield environment
    remove(folder)


def test_wheel_holds_recmtl_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {re.sub(r"-.*", "", name.split("/")[0]) for name in names} == {"recmtl"}
    tracked = subprocess.run(
        ["git", "ls-files", "recmtl"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(tracked) <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_towers_alone_install_torch_and_numpy_pitfall_T44(core: Environment) -> None:
    assert {"recmtl", "torch", "numpy"} <= core.distributions()
    assert not core.distributions() & (TRAINING_ONLY | SCORING_ONLY)


def test_tower_runs_where_only_torch_is_installed_pitfall_T43(core: Environment) -> None:
    code = (
        "import torch; from recmtl.towers import PLE, PLEConfig; "
        "tower = PLE(PLEConfig(), in_dim=16, tasks=('ctr', 'cvr')); "
        "logits_BT = tower(torch.randn(8, 16)); logits_BT.sum().backward(); "
        "import recmtl; print(tuple(logits_BT.shape), recmtl.__file__)"
    )
    printed = core.run(core.bin / "python", "-c", code).stdout
    assert printed.startswith("(8, 2) ")
    assert str(core.bin.parent) in printed
    core.run(
        core.bin / "python", shutil.copy(ROOT / "examples/03_tower_in_plain_pytorch.py", core.cwd)
    )


def test_losses_metrics_and_tasks_work_where_only_torch_and_numpy_are(core: Environment) -> None:
    """Every example in their docstrings runs there, and so does the README's."""
    names = [f"recmtl.{part}" for part in ("towers", "losses", "tasks", "metrics", "testing")]
    printed = core.run(core.bin / "python", "-P", ROOT / "tests/docstrings.py", *names).stdout
    found = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert list(found) == names
    assert all(re.fullmatch(r"[1-9]\d* 0", counts) for counts in found.values()), found
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, section = page.partition("### 3. Towers, in a model of your own")
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert block is not None
    assert "recmtl.testing.assert_tower_ok(tower)" in section
    promises = "import recmtl.testing\nrecmtl.testing.assert_tower_ok(tower)\n"
    core.run(core.bin / "python", "-c", block[1] + promises)


def test_tower_takes_the_place_of_a_head_where_only_torch_is_installed(core: Environment) -> None:
    printed = core.run(core.bin / "python", ROOT / "examples/stacks/plain_module.py").stdout
    assert "AUC on 5,000 held-out rows: ctr 0.7" in printed


PREDICT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from clicks import LABELS, TASKS, draw
from torch.utils.data import DataLoader
from torch_rechub.trainers import MTLTrainer
from torch_rechub_model import TaskSet, WithPLE, columns, rechub_model

train, held_out = draw(64, 100)
before = rechub_model()
model = WithPLE(before, TaskSet(TASKS, labels=LABELS, objective="entire_space"))
assert model.embedding is before.embedding
probs_BT = model.eval()(columns(held_out))
x = [{name: column[i] for name, column in columns(held_out).items()} for i in range(100)]
trainer = MTLTrainer(model, ["classification"] * 3)
assert torch.equal(torch.tensor(trainer.predict(model, DataLoader(x, 100))), probs_BT)
assert ((probs_BT > 0) & (probs_BT < 1)).all() and probs_BT.std(0).min() > 0
assert torch.allclose(probs_BT[:, 2], probs_BT[:, 0] * probs_BT[:, 1])
"""


def test_tower_takes_the_place_of_torch_rechubs(with_rechub: Environment) -> None:
    python, stacks = with_rechub.bin / "python", ROOT / "examples/stacks"
    lines = with_rechub.run(python, stacks / "torch_rechub_model.py").stdout.splitlines()
    losses = [tuple(map(float, re.findall(r"\d\.\d{4}", line))) for line in lines[:-1]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1][0] < 0.95 * losses[0][0]
    assert losses[-1][1] < 0.95 * losses[0][1]
    assert min(map(float, re.findall(r"\d\.\d{4}", lines[-1]))) > 0.65
    with_rechub.run(python, "-c", PREDICT, stacks)


def test_command_line_without_its_extra_says_what_to_install(core: Environment) -> None:
    error = core.run(core.bin / "recmtl", "--help", code=4).stderr
    assert re.fullmatch(r"MissingExtraError: `recmtl` needs `\w+`, .*'recmtl\[score\]'`\.\n", error)


def test_cpu_laptop_installs_no_cuda_wheel(laptop: Environment) -> None:
    assert {"torchrec", "fbgemm-gpu-cpu", "lightning"} <= laptop.distributions()
    assert "fbgemm-gpu" not in laptop.distributions()


def test_cpu_laptop_runs_the_main_job_pitfall_T43(laptop: Environment) -> None:
    assert "simulate" in laptop.run(laptop.bin / "recmtl", "--help").stdout
    evaluated = laptop.recmtl("eval", "run", "--data", "data/test.parquet")
    scored = laptop.recmtl("score", "run", "--data", "data/test.parquet", "--out", "scores")
    assert evaluated["rows"] == scored["rows"] == 400
    laptop.run(laptop.bin / "recmtl", "report", "run")
    laptop.run(laptop.bin / "recmtl", "doctor", "data/spec.yaml")
    assert list((laptop.cwd / "run").rglob("*.html"))


def test_scores_are_equal_without_torchrec_and_lightning(
    core: Environment, laptop: Environment, wheel: Path
) -> None:
    laptop.recmtl("score", "run", "--data", "data/test.parquet", "--out", "here")
    core.run("pip", "install", "--quiet", f"{wheel}[score]")
    assert not core.distributions() & TRAINING_ONLY
    data = laptop.cwd / "data/test.parquet"
    core.recmtl("score", laptop.cwd / "run", "--data", data, "--out", "there")
    part = "part-00000.parquet"
    assert (core.cwd / "there" / part).read_bytes() == (laptop.cwd / "here" / part).read_bytes()
