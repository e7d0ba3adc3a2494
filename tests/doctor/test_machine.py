"""Versions, memory and threads of the machine."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import psutil
import pytest

from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders
from recmtl.doctor import machine, require_model
from recmtl.errors import MissingExtraError, SpecError
from tests.doctor.conftest import Shop


def test_versions_are_named() -> None:
    (found,) = [f for f in machine.version_findings() if f.where == "versions"]
    assert found.severity == "info"
    assert "torch " in found.what


def test_versions_that_clash_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def clash() -> None:
        raise MissingExtraError("torch 2.13 goes with torchrec 1.8. Run: pip install torchrec")

    monkeypatch.setattr(machine, "check_versions", clash)
    (found,) = [f for f in machine.version_findings() if f.severity == "error"]
    assert (found.exit_code, found.where) == (4, "versions")
    assert "pip install torchrec" in found.what


def test_a_machine_without_lightning_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == "lightning":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    (found,) = [f for f in machine.version_findings() if f.severity == "error"]
    assert found.exit_code == 4
    assert "`recmtl train` needs `lightning`, which is not installed. Run" in str(found)


@pytest.mark.parametrize(("value", "warned"), [("PASSIVE", 0), ("passive", 0), ("ACTIVE", 1)])
def test_spinning_threads_are_a_warning_on_a_cpu(
    value: str, warned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("OMP_WAIT_POLICY", value)
    found = [f for f in machine.version_findings() if f.where == "environment"]
    assert len(found) == warned
    assert all("OMP_WAIT_POLICY=PASSIVE" in f.advice for f in found)


def test_memory_is_weighed_against_the_tables(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = Encoders.fit(config, tmp_path)
    rows = {"user_id": 201, "item_id": 51, "brand": 5, "tags": 21}
    assert encoders.tables == rows
    total = sum(4 * n * (4 + 1) for n in rows.values())  # a row and its row-wise state
    sizes = {"info": 2.5 * total, "warning": 1.5 * total, "error": 1.05 * total}
    for severity, size in sizes.items():
        monkeypatch.setattr(machine, "machine_memory", lambda size=size: size)
        (found,) = machine.memory_findings(config, encoders)
        assert found.severity == severity
        assert f"{total / 1024:.1f} KiB" in found.what
        assert "the largest is `user_id`" in found.what
    assert found.exit_code == 2
    with pytest.raises(SpecError, match=r"^memory: tables and their optimizer state take"):
        require_model(config, encoders)


def test_a_container_limits_the_memory(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    assert machine.machine_memory(tmp_path) == total
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.machine_memory(tmp_path) == total
    (tmp_path / "memory.max").write_text("1048576\n")
    assert machine.machine_memory(tmp_path) == 2**20


def test_adam_on_tables_needs_cuda(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_spec(shop(), ["train.embedding.optimizer=adam"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (found,) = machine.optimizer_findings(config)
    assert found.exit_code == 2
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert machine.optimizer_findings(config) == []
