"""Importing is free of side effects, and each package needs no more than it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PACKAGES = (
    "recmtl",
    "recmtl.errors",
    "recmtl.towers",
    "recmtl.losses",
    "recmtl.tasks",
    "recmtl.metrics",
    "recmtl.testing",
    "recmtl.batch",
    "recmtl.spec",
    "recmtl.config",
    "recmtl.data",
    "recmtl.embeddings",
    "recmtl.models",
    "recmtl.checkpoint",
    "recmtl.run",
    "recmtl.scoring",
    "recmtl.exporting",
    "recmtl.training",
    "recmtl.analysis",
    "recmtl.simulate",
    "recmtl.report",
    "recmtl.doctor",
    "recmtl.api",
    "recmtl.studies",
    "recmtl.cli",
)
"""From the bottom layer to the top one."""

OPTIONAL = [
    *("fbgemm_gpu", "lightning", "torchrec", "torchmetrics", "tensordict", "pyre_extensions"),
    *("polars", "polars_hash", "pyarrow", "pydantic", "yaml", "safetensors", "click", "rich"),
    *("tqdm", "psutil", "matplotlib", "jinja2", "pandas", "sklearn", "scipy"),
]
"""Everything that is neither Python, numpy nor torch."""

BLOCK = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

sys.meta_path.insert(0, Blocked())
"""

STATE = """
import json, logging, os, random, socket, sys, warnings

def refuse(*args, **kwargs):
    raise AssertionError("network")

socket.socket.connect = socket.socket.connect_ex = socket.socket.bind = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse

import numpy, torch

def state():
    root = logging.getLogger()
    return dict(
        environment=sorted(os.environ.items()),
        seeds=[
            hash(random.getstate()),
            repr(numpy.random.get_state()),
            torch.random.initial_seed(),
            torch.get_rng_state().tolist(),
        ],
        logging=[root.level, [repr(h) for h in root.handlers], [repr(f) for f in root.filters]],
        warnings=[repr(f) for f in warnings.filters],
        threads=[torch.get_num_threads(), torch.get_num_interop_threads()],
        defaults=[str(torch.get_default_dtype()), str(torch.get_default_device())],
        grad=[torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()],
        folder=os.getcwd(),
        hooks=[repr(sys.excepthook), repr(sys.displayhook)],
    )
"""


def block(packages: list[str]) -> str:
    """Code after which some packages cannot be imported."""
    return f"BLOCKED = set({packages!r})" + BLOCK


def python(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def import_without(blocked: list[str], *modules: str) -> None:
    """Import modules in a fresh interpreter where some packages are absent."""
    python(
        block(blocked)
        + "for name in sys.argv[1:]: importlib.import_module(name)\n"
        + "assert not BLOCKED & set(sys.modules), BLOCKED & set(sys.modules)",
        *modules,
    )


def test_importing_recmtl_imports_nothing_else() -> None:
    code = (
        "import __future__, sys, typing; before = set(sys.modules); import recmtl; "
        "print(*sorted(set(sys.modules) - before))"
    )
    assert python(code).split() == ["recmtl"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loaded", "packages"),
    [
        pytest.param([], PACKAGES[: PACKAGES.index("recmtl.batch") + 1], id="torch"),
        # Lightning and polars set variables of their own when they are imported.
        pytest.param(["lightning", "polars"], PACKAGES, id="everything"),
    ],
)
def test_importing_changes_nothing_and_calls_nobody_pitfall_T44(
    loaded: list[str], packages: tuple[str, ...]
) -> None:
    code = (
        STATE
        + f"""
import importlib
for name in {loaded}:
    importlib.import_module(name)
for name in sys.argv[1:]:
    before = state()
    importlib.import_module(name)
    after = state()
    for key in before:
        if before[key] != after[key]:
            print(name, key, before[key], after[key], sep=" | ")
"""
    )
    assert python(code, *packages) == ""


@pytest.mark.slow
def test_torch_packages_import_where_only_torch_is_installed_pitfall_T44() -> None:
    import_without(OPTIONAL, "recmtl.towers", "recmtl.losses", "recmtl.tasks", "recmtl.testing")


def test_metrics_need_numpy_alone() -> None:
    import_without([*OPTIONAL, "torch"], "recmtl.metrics")


@pytest.mark.slow
@pytest.mark.parametrize("package", ["recmtl.scoring", "recmtl.exporting"])
def test_scoring_and_exports_need_neither_torchrec_nor_lightning(package: str) -> None:
    absent = ["torchrec", "fbgemm_gpu", "lightning", "torchmetrics", "onnx", "onnxruntime"]
    import_without(absent, package)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocked", "packages"),
    [
        pytest.param(OPTIONAL, ["towers", "losses", "tasks"], id="torch"),
        pytest.param([*OPTIONAL, "torch"], ["metrics"], id="numpy"),
    ],
)
def test_packages_that_stand_alone_work_alone(blocked: list[str], packages: list[str]) -> None:
    """Every example in their docstrings runs where nothing else is installed."""
    script = (ROOT / "tests" / "docstrings.py").read_text(encoding="utf-8")
    script = script.replace("from __future__ import annotations\n", "")
    names = [f"recmtl.{package}" for package in packages]
    lines = python(block(blocked) + script, *names).splitlines()
    assert [line.split()[0] for line in lines] == names
    assert all(int(line.split()[1]) > 2 for line in lines), lines
    assert all(line.endswith(" 0") for line in lines), lines


def test_command_line_starts_without_torch() -> None:
    heavy = {"torch", "numpy", "polars", "pydantic", "lightning", "torchrec"}
    assert python(f"import sys, recmtl.cli; print(*({heavy} & set(sys.modules)))").split() == []


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_that_takes_time(arguments: list[str]) -> None:
    heavy = {*OPTIONAL, "torch", "numpy"} - {"click", "rich"}
    code = f"""
import sys
from recmtl.cli import main
try:
    main({arguments})
except SystemExit as error:
    assert error.code == 0
print("loaded:", *({heavy} & set(sys.modules)))
"""
    assert python(code).splitlines()[-1].split() == ["loaded:"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "needs"),
    [("towers", "torch"), ("losses", "torch"), ("tasks", "torch"), ("metrics", "numpy")],
)
def test_packages_that_stand_alone_load_nothing_beside_what_they_need(
    package: str, needs: str
) -> None:
    code = f"""
import sys, {needs}
before = set(sys.modules)
import recmtl.{package}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*(new - set(sys.stdlib_module_names) - {{"{needs}"}}))
"""
    assert python(code).split() == ["recmtl"]


@pytest.mark.slow
def test_tables_do_without_the_optimizers_that_torch_compiles() -> None:
    code = "import sys, recmtl.embeddings.sharded; print(*sys.modules)"
    assert "torch.distributed.optim" not in python(code).split()


def test_public_names_of_an_absent_package_name_the_extra() -> None:
    code = (
        block(["polars"])
        + """
import recmtl
try:
    recmtl.BatchScorer
except recmtl.errors.MissingExtraError as error:
    print(error)
"""
    )
    assert python(code) == (
        "`recmtl.BatchScorer` needs `polars`, which is not installed. "
        "Run `pip install 'recmtl[score]'`.\n"
    )


def test_layers_hold() -> None:
    """The contracts of pyproject.toml; `make lint` says the same in more words."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_package_is_listed() -> None:
    found = {
        f"recmtl.{path.stem}"
        for path in (ROOT / "recmtl").iterdir()
        if not path.name.startswith("_")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert found == set(PACKAGES) - {"recmtl"}
