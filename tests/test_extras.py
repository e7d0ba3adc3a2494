"""An absent optional package becomes one sentence with the command to type."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from recmtl._extras import EXTRA_OF, import_optional, naming_the_extra
from recmtl.errors import MissingExtraError

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
DISTRIBUTION_OF = {"yaml": "pyyaml", "fbgemm_gpu": "fbgemm-gpu-cpu"}


def distributions(extra: str) -> set[str]:
    """Normalised names of what an extra asks for, directly or through another extra."""
    names: set[str] = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)
        inner = re.match(r"recmtl\[(\w+)\]", requirement)
        assert name is not None
        names |= distributions(inner[1]) if inner else {name[0].lower().replace("_", "-")}
    return names


@pytest.mark.parametrize("package", sorted(set(EXTRA_OF) - {"torchrec"}))
def test_the_extra_named_brings_the_package(package: str) -> None:
    wanted = DISTRIBUTION_OF.get(package, package.replace("_", "-"))
    assert wanted in distributions(EXTRA_OF[package])


def test_every_dependency_of_an_extra_is_known() -> None:
    known = {DISTRIBUTION_OF.get(package, package.replace("_", "-")) for package in EXTRA_OF}
    found = distributions("cpu") | distributions("tune") | distributions("export")
    assert found | {"torchrec"} == known | {"torch"}


def test_gpu_and_cpu_differ_by_fbgemm_and_torchrec_alone() -> None:
    assert distributions("gpu") - distributions("cpu") == {"fbgemm-gpu", "torchrec"}
    assert distributions("cpu") - distributions("gpu") == {"fbgemm-gpu-cpu"}


@pytest.mark.parametrize(
    ("package", "fix"),
    [
        ("polars", r"Run `pip install 'recmtl\[score\]'`\.$"),
        ("lightning", r"Run `pip install 'recmtl\[train\]'`\.$"),
        ("fbgemm_gpu", r"Run `pip install 'recmtl\[cpu\]'` \(`recmtl\[gpu\]` on a machine with"),
        ("torchrec", r"run `pip install --no-deps torchrec==1\.8\.0` after `pip install 'recmtl\["),
    ],
)
def test_message_names_the_fix(package: str, fix: str) -> None:
    with (
        pytest.raises(MissingExtraError, match=rf"^`recmtl x` needs `{package}`, .*{fix}"),
        naming_the_extra("`recmtl x`"),
    ):
        raise ModuleNotFoundError(name=f"{package}.part")


def test_a_failure_of_our_own_passes_through() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"recmtl\.nothing"):
        import_optional("recmtl.nothing", "the test")
