"""The gate to torchrec and fbgemm: quiet, without traces, and clear where it fails."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recmtl import _torchrec
from recmtl._torchrec import Versions, installed_versions, quiet, version_problem
from recmtl.errors import MissingExtraError


@pytest.mark.parametrize(
    "versions",
    [
        Versions("2.11.0+cu130", "1.6.1", "1.6.0", None),
        Versions("2.12.1", "1.7.0", None, "1.7.0"),
        Versions("2.13.0+cpu", "1.8.0", None, "1.8.0"),
    ],
)
def test_triples_that_fit(versions: Versions) -> None:
    assert version_problem(versions, cuda=False) is None


CPU_FIX = (
    "Run: pip install 'torch==2.13.*' 'fbgemm-gpu-cpu==1.8.*' tensordict pyre-extensions tqdm "
    "torchmetrics==1.0.3 && pip install --no-deps 'torchrec==1.8.*'"
)
GPU_FIX = "Run: pip install 'torch==2.13.*' 'torchrec==1.8.*' 'fbgemm-gpu==1.8.*'"


@pytest.mark.parametrize(
    ("versions", "cuda", "expected"),
    [
        (
            Versions("2.13.0+cpu", None, None, None),
            False,
            "Training needs torchrec and fbgemm, not installed here; found torch 2.13.0+cpu. "
            + CPU_FIX,
        ),
        (
            Versions("2.13.0+cpu", None, None, "1.8.0"),
            False,
            "Training needs torchrec, not installed here; found torch 2.13.0+cpu, "
            "fbgemm-gpu-cpu 1.8.0. " + CPU_FIX,
        ),
        (
            Versions("2.13.0+cu130", "1.8.0", None, None),
            True,
            "Training needs fbgemm, not installed here; found torch 2.13.0+cu130, torchrec 1.8.0. "
            + GPU_FIX,
        ),
        (
            Versions("2.13.0+cpu", "1.7.0", None, "1.8.0"),
            False,
            "torch 2.13 goes with torchrec 1.8 and fbgemm 1.8; found torch 2.13.0+cpu, "
            "torchrec 1.7.0, fbgemm-gpu-cpu 1.8.0. " + CPU_FIX,
        ),
        (
            Versions("2.13.0+cpu", "1.8.0", None, "1.6.0"),
            False,
            "torch 2.13 goes with torchrec 1.8 and fbgemm 1.8; found torch 2.13.0+cpu, "
            "torchrec 1.8.0, fbgemm-gpu-cpu 1.6.0. " + CPU_FIX,
        ),
        (
            Versions("2.15.0", "1.8.0", None, "1.8.0"),
            False,
            "recmtl trains with torch and torchrec/fbgemm of 2.11 with 1.6, 2.12 with 1.7, 2.13 "
            "with 1.8; found torch 2.15.0, torchrec 1.8.0, fbgemm-gpu-cpu 1.8.0. " + CPU_FIX,
        ),
        (
            Versions("2.13.0+cpu", "1.8.0", "1.8.0", "1.8.0"),
            False,
            "fbgemm-gpu and fbgemm-gpu-cpu are installed together and overwrite each other's "
            "files; found torch 2.13.0+cpu, torchrec 1.8.0, fbgemm-gpu 1.8.0, "
            "fbgemm-gpu-cpu 1.8.0. Run: pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && "
            + CPU_FIX.removeprefix("Run: "),
        ),
    ],
)
def test_one_sentence_names_versions_and_fix(versions: Versions, cuda: bool, expected: str) -> None:
    assert version_problem(versions, cuda=cuda) == expected


def fail_to_import(monkeypatch: pytest.MonkeyPatch, error: Exception, versions: Versions) -> None:
    def import_module(name: str) -> None:
        raise error

    monkeypatch.setattr(_torchrec, "installed_versions", lambda: versions)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib, "import_module", import_module)


def test_cuda_wheel_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError("libnvidia-ml.so.1: cannot open shared object file\nmore")
    fail_to_import(monkeypatch, error, Versions("2.13.0", "1.8.0", "1.8.0", None))
    expected = (
        r"fbgemm-gpu 1\.8\.0 is FBGEMM's CUDA wheel and cannot load without an NVIDIA driver "
        r"\(libnvidia-ml\.so\.1: cannot open shared object file\); found torch 2\.13\.0.*"
        r"Run: pip uninstall -y fbgemm-gpu && pip install .*'fbgemm-gpu-cpu==1\.8\.\*'"
    )
    with pytest.raises(MissingExtraError, match=expected) as caught:
        _torchrec.check_versions()
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_a_package_that_torchrec_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named 'pyre_extensions'", name="pyre_extensions.x")
    fail_to_import(monkeypatch, error, Versions("2.13.0", "1.8.0", None, "1.8.0"))
    expected = r"torchrec needs the package pyre-extensions.*Run: pip install pyre-extensions"
    with pytest.raises(MissingExtraError, match=expected):
        _torchrec.check_versions()


def test_anything_else_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError("undefined symbol: _ZN3c10")
    fail_to_import(monkeypatch, error, Versions("2.13.0", "1.8.0", None, "1.8.0"))
    expected = r"do not load \(OSError: undefined symbol: _ZN3c10\); found .*Run: pip uninstall"
    with pytest.raises(MissingExtraError, match=expected):
        _torchrec.check_versions()


def test_installed_versions_need_no_import() -> None:
    found = installed_versions()
    assert found.torch == torch.__version__
    assert version_problem(found, cuda=False) is None


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _torchrec.Nothing  # noqa: B018


def test_quiet_restores_logging_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    root, noisy = logging.getLogger(), logging.getLogger("torchrec.planner")
    before = (list(root.handlers), root.level, logging.getLogger("torchrec").level)
    monkeypatch.delenv("RECMTL_TEST_TRACE", raising=False)
    with quiet():
        root.addHandler(logging.NullHandler())
        os.environ["RECMTL_TEST_TRACE"] = "1"
        assert not noisy.isEnabledFor(logging.WARNING)
    assert (list(root.handlers), root.level, logging.getLogger("torchrec").level) == before
    assert "RECMTL_TEST_TRACE" not in os.environ


@pytest.mark.slow
def test_importing_all_names_is_silent_and_leaves_no_trace_pitfall_T44() -> None:
    code = """
import logging, os, random, sys, torch
before = lambda: (dict(os.environ), logging.getLogger().handlers[:], logging.getLogger().level,
                  torch.initial_seed(), torch.get_num_threads(), random.getstate())
first = before()
from recmtl import _torchrec
assert "torchrec" not in sys.modules
for name in _torchrec._HOMES:
    getattr(_torchrec, name)
assert "torchrec" in sys.modules
assert before() == first
"""
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
