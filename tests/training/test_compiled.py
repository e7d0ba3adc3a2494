"""`train.compile`: the same numbers and the same checkpoints, or a sentence why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch.testing import assert_close

from recmtl import api
from recmtl.config import fingerprint, load_spec
from recmtl.data import Encoders
from recmtl.errors import SpecError
from recmtl.models import build_net
from recmtl.towers import MMoEConfig, build_tower
from recmtl.training import fit
from recmtl.training.compiled import accelerate_tower, problem_of
from tests.training.tools import At, crash, last_tensors

Make = Callable[..., Any]
HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs a C++ compiler")


def tower() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_tower(
        MMoEConfig(num_experts=2, expert_widths=(8,), head_widths=(4,)), in_dim=6, tasks=("a", "b")
    )


def gradients(tower: torch.nn.Module, x_BD: torch.Tensor) -> list[torch.Tensor]:
    wanted = [x_BD, *tower.parameters()]
    return list(torch.autograd.grad(tower(x_BD).square().sum(), wanted))


@pytest.fixture(scope="module")
def compiled_and_plain(
    encoders: Encoders, log_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, list[str]]:
    """Folders of a run of ten steps with `compile: compile` and without, and what was said."""
    said: list[str] = []
    folders = []
    for kind in ("compile", "none"):
        config = load_spec(log_dir / "spec.yaml", ["train.epochs=1", f"train.compile={kind}"])
        folders.append(tmp_path_factory.mktemp(kind))
        fit(config, encoders, data_dir=log_dir, folder=folders[-1], notify=said.append)
    return folders[0], folders[1], said


@pytest.mark.slow
@needs_compiler
def test_a_compiled_run_ends_where_a_plain_one_does(
    compiled_and_plain: tuple[Path, Path, list[str]],
) -> None:
    compiled, plain, said = compiled_and_plain
    assert said == []
    found, expected = last_tensors(compiled), last_tensors(plain)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert_close(
            found[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, k=key: f"{k}: {text}"
        )


@pytest.mark.slow
@needs_compiler
def test_a_compiled_tower_is_used_in_training_alone() -> None:
    fast, plain, said = tower(), tower(), list[str]()
    keys = list(fast.state_dict())
    accelerate_tower(fast, "compile", said.append)
    forward = fast.forward
    accelerate_tower(fast, "compile", said.append)
    assert fast.forward is forward
    x_BD = torch.randn(5, 6, requires_grad=True)
    for found, expected in zip(gradients(fast, x_BD), gradients(plain, x_BD), strict=True):
        assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert list(fast.state_dict()) == keys
    assert all(parameter.grad is None for parameter in fast.parameters())
    with torch.compiler.set_stance("fail_on_recompile"):
        gradients(fast, torch.randn(5, 6, requires_grad=True))
        gradients(fast, torch.randn(9, 6, requires_grad=True))  # of another size: plain
        assert torch.equal(fast.eval()(x_BD), plain.eval()(x_BD))
        with torch.no_grad():
            assert torch.equal(fast.train()(x_BD), plain(x_BD))
    assert said == []


def test_without_a_compiler_training_says_so_once_and_goes_on() -> None:
    fast, plain, said = tower(), tower(), list[str]()
    accelerate_tower(fast, "compile", said.append)
    x_BD = torch.randn(3, 6, requires_grad=True)
    broken = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with torch._inductor.config.patch(broken):
        for _ in range(2):
            for found, expected in zip(gradients(fast, x_BD), gradients(plain, x_BD), strict=True):
                assert torch.equal(found, expected)
    (sentence,) = said
    assert sentence.startswith("train.compile: `compile` does not work here (")
    assert sentence.endswith("). Training goes on without it.")
    assert "\n" not in sentence


def test_graphs_on_a_cpu_fall_back_with_a_sentence(
    encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    config = load_spec(log_dir / "spec.yaml", ["train.epochs=1", "train.compile=graphs"])
    result = fit(config, encoders, data_dir=log_dir, folder=tmp_path, notify=said.append)
    assert result.epochs == 1
    if not torch.cuda.is_available():
        assert said == [
            "train.compile: `graphs` does not work here (CUDA graphs need a CUDA device, this"
            " trains on cpu). Training goes on without it."
        ]


@pytest.mark.parametrize("kind", ["mmoe", "ple", "cgc", "esmm", "shared_bottom"])
@pytest.mark.parametrize("normalize", ["rows", "observed"])
def test_the_dense_part_neither_leaves_its_device_nor_asks_for_values(
    kind: str, normalize: str, make: Make
) -> None:
    """A graph could not hold either. On `meta` both raise, and there is one on every machine."""
    module, data = make(f"tower={kind}", f"train.normalize={normalize}")
    batch = next(iter(data.loader("valid.parquet", batch_size=64))).to("meta")
    config, encoders, tasks = module.config, module.encoders, module.tasks.to("meta")
    net = build_net(config, config.tower, encoders, torch.nn.Identity()).to("meta")
    vectors = {n: torch.empty(64, 4, device="meta") for n in ("user", "item", "tags")}
    vectors["history"] = torch.empty(64, 3, 4, device="meta")
    for vector in vectors.values():
        vector.requires_grad_()
    logits_BH = net.tower(net.inputs(batch, vectors))
    terms = tasks.loss(
        logits_BH,
        batch.labels_BK,
        batch.weight_B,
        total_weight=batch.weight_B.sum(),
        observed_weight_T=tasks.observed_weight(batch.labels_BK, batch.weight_B),
    )
    terms.total.backward()
    assert all(vector.grad is not None and vector.grad.is_meta for vector in vectors.values())


@pytest.mark.slow
@pytest.mark.multiprocess
def test_of_several_processes_one_says_it(log_dir: Path, tmp_path: Path) -> None:
    overrides = ["train.epochs=1", "train.devices=2", "train.compile=graphs"]
    said: list[str] = []
    spec, out = log_dir / "spec.yaml", tmp_path / "run"
    result = api.train(spec, out=out, overrides=overrides, notify=said.append)
    assert result.epochs == 1
    assert len([text for text in said if text.startswith("train.compile: `graphs`")]) == 1


@pytest.mark.parametrize(
    ("kind", "device", "ranks", "why"),
    [
        ("graphs", "cuda", 2, "with several processes"),
        ("graphs", "cpu", 1, "need a CUDA device"),
        ("compile", "cuda", 2, None),
    ],
)
def test_what_cannot_work_is_known_before(
    kind: Any, device: str, ranks: int, why: str | None
) -> None:
    found = problem_of(kind, tower(), torch.device(device), ranks=ranks)
    assert found is None if why is None else found is not None and why in found


def test_dropout_and_wider_inputs_are_not_graphed() -> None:
    config = MMoEConfig(num_experts=2, expert_widths=(8,), head_widths=(4,), dropout=0.1)
    dropping = build_tower(config, in_dim=6, tasks=("a",))
    cuda = torch.device("cuda")
    assert "dropout" in str(problem_of("graphs", dropping, cuda, ranks=1))
    wide = tower()
    wide.requires = frozenset({"fields"})  # type: ignore[assignment]  # towers say what they take
    assert "more than the input vector" in str(problem_of("compile", wide, cuda, ranks=1))


def test_another_value_is_refused(log_dir: Path) -> None:
    with pytest.raises(SpecError, match=r"`compile` must be one of `none`, `graphs`, `compile`"):
        load_spec(log_dir / "spec.yaml", ["train.compile=fast"])


def test_a_run_may_go_on_with_another_value(log_dir: Path) -> None:
    plain, compiled = (
        load_spec(log_dir / "spec.yaml", [f"train.compile={kind}"]) for kind in ("none", "compile")
    )
    assert fingerprint(plain) == fingerprint(compiled)


@pytest.mark.slow
@needs_compiler
def test_an_interrupted_compiled_run_ends_where_a_whole_one_does(
    compiled_and_plain: tuple[Path, Path, list[str]],
    encoders: Encoders,
    log_dir: Path,
    tmp_path: Path,
) -> None:
    config = load_spec(log_dir / "spec.yaml", ["train.epochs=1", "train.compile=compile"])

    with pytest.raises(OSError, match="gone"):
        fit(config, encoders, data_dir=log_dir, folder=tmp_path, progress=At(crash, step=4))
    fit(config, encoders, data_dir=log_dir, folder=tmp_path)
    found, expected = last_tensors(tmp_path), last_tensors(compiled_and_plain[0])
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
