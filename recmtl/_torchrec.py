"""The one gate to torchrec and fbgemm: a quiet import, and one clear sentence where it fails.

Nothing is imported before a name of `_HOMES` is asked for, so that versions can be reported where
the import itself fails.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch.fx import _symbolic_trace as symbolic_trace

from recmtl.errors import MissingExtraError

__all__ = [
    "Versions",
    "check_versions",
    "forget_groups",
    "installed_versions",
    "load",
    "quiet",
    "version_problem",
]

PAIRS = {"2.11": "1.6", "2.12": "1.7", "2.13": "1.8"}
"""torch -> torchrec and fbgemm: the binary interfaces that fit each other."""

_NOISY = ("torchrec", "fbgemm_gpu", "torch.fx", "torch.distributed")

_HOMES = {
    "CombinedOptimizer": "torchrec.optim.keyed",
    "DefaultDataParallelWrapper": "torchrec.distributed.model_parallel",
    "DataParallelWrapper": "torchrec.distributed.model_parallel",
    "DistributedModelParallel": "torchrec.distributed.model_parallel",
    "EmbeddingBagCollection": "torchrec.modules.embedding_modules",
    "EmbeddingBagCollectionSharder": "torchrec.distributed.embeddingbag",
    "EmbeddingBagConfig": "torchrec.modules.embedding_configs",
    "EmbeddingShardingPlanner": "torchrec.distributed.planner",
    "FixedPercentageStorageReservation": "torchrec.distributed.planner.storage_reservations",
    "KeyedJaggedTensor": "torchrec.sparse.jagged_tensor",
    "KeyedOptimizer": "torchrec.optim.keyed",
    "KeyedOptimizerWrapper": "torchrec.optim.keyed",
    "KeyedTensor": "torchrec.sparse.jagged_tensor",
    "ParameterConstraints": "torchrec.distributed.planner",
    "PlannerError": "torchrec.distributed.planner.types",
    "PoolingType": "torchrec.modules.embedding_configs",
    "RowWiseAdagrad": "torchrec.optim.rowwise_adagrad",
    "ShardingPlan": "torchrec.distributed.types",
    "Topology": "torchrec.distributed.planner",
    "BoundsCheckMode": "fbgemm_gpu.split_table_batched_embeddings_ops_common",
}


_REMEMBERED: dict[str, dict[str, bool | None]] = {
    "torchrec.distributed.collective_utils": {"_INITIALIZED": False},
    "torchrec.distributed.comm": {"_INTRA_PG": None, "_CROSS_PG": None},
}
"""What torchrec keeps of the first process group that it sees, and what it begins with."""


class Versions(NamedTuple):
    """Versions of what has to fit together, None where a distribution is absent."""

    torch: str
    torchrec: str | None
    fbgemm_gpu: str | None
    """The CUDA wheel, `fbgemm-gpu`."""
    fbgemm_gpu_cpu: str | None
    """The CPU wheel, `fbgemm-gpu-cpu`."""

    def __str__(self) -> str:
        found = {"torch": self.torch, "torchrec": self.torchrec}
        found |= {"fbgemm-gpu": self.fbgemm_gpu, "fbgemm-gpu-cpu": self.fbgemm_gpu_cpu}
        return ", ".join(
            f"{name} {version}" for name, version in found.items() if version is not None
        )


def installed_versions() -> Versions:
    """What is installed, by its metadata; imports neither torchrec nor fbgemm."""
    torchrec, cuda_wheel, cpu_wheel = map(_version_of, ("torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu"))
    return Versions(str(torch.__version__), torchrec, cuda_wheel, cpu_wheel)


def version_problem(versions: Versions, *, cuda: bool) -> str | None:
    """The first thing that is wrong with the versions and its fix in one sentence, or None.

    Args:
        versions: what is installed.
        cuda: True where an NVIDIA GPU is usable, for which the fix names the CUDA wheel.

    Example:
        >>> print(version_problem(Versions("2.13.0+cpu", "1.8.0", None, "1.8.0"), cuda=False))
        None
    """
    pair = PAIRS.get(_minor(versions.torch))
    fbgemm = versions.fbgemm_gpu or versions.fbgemm_gpu_cpu
    if pair is None:
        supported = ", ".join(f"{t} with {p}" for t, p in PAIRS.items())
        newest = list(PAIRS)[-1]
        return (
            f"recmtl trains with torch and torchrec/fbgemm of {supported}; found {versions}. "
            f"Run: {_install(newest, cuda=cuda)}"
        )
    if versions.fbgemm_gpu is not None and versions.fbgemm_gpu_cpu is not None:
        return (
            "fbgemm-gpu and fbgemm-gpu-cpu are installed together and overwrite each other's "
            f"files; found {versions}. Run: pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu && "
            f"{_install(versions.torch, cuda=cuda)}"
        )
    found = {"torchrec": versions.torchrec, "fbgemm": fbgemm}
    missing = " and ".join(name for name, version in found.items() if version is None)
    if missing:
        return (
            f"Training needs {missing}, not installed here; found {versions}. "
            f"Run: {_install(versions.torch, cuda=cuda)}"
        )
    if any(version is None or _minor(version) != pair for version in found.values()):
        return (
            f"torch {_minor(versions.torch)} goes with torchrec {pair} and fbgemm {pair}; "
            f"found {versions}. Run: {_install(versions.torch, cuda=cuda)}"
        )
    return None


def check_versions() -> None:
    """Import torchrec and fbgemm once, to see that they fit and load.

    Raises:
        MissingExtraError: they are absent, do not fit torch, or do not load on this machine.
    """
    load("EmbeddingBagCollection")


def load(name: str) -> Any:
    """The object `name` of torchrec or fbgemm.

    Raises:
        MissingExtraError: torchrec or fbgemm is absent, does not fit torch, or does not load on
        this machine.
    """
    module = _HOMES[name]
    versions = installed_versions()
    cuda = torch.cuda.is_available()
    problem = version_problem(versions, cuda=cuda)
    if problem is not None:
        raise MissingExtraError(problem)
    try:
        with quiet():
            importlib.import_module("fbgemm_gpu")
            value = getattr(importlib.import_module(module), name)
            symbolic_trace.is_fx_tracing()  # torch logs a note the first time: let it be now
            return value
    except (ImportError, OSError) as error:
        raise MissingExtraError(_import_problem(error, versions, cuda=cuda)) from error


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = load(name)
    globals()[name] = value
    return value


def _import_problem(error: ImportError | OSError, versions: Versions, *, cuda: bool) -> str:
    absent = error.name if isinstance(error, ModuleNotFoundError) else None
    if absent is not None and absent.split(".")[0] not in {"torchrec", "fbgemm_gpu"}:
        package = absent.split(".")[0].replace("_", "-")
        return (
            f"torchrec needs the package {package}, which is not installed; found {versions}. "
            f"Run: pip install {package}"
        )
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if versions.fbgemm_gpu is not None and not cuda:
        return (
            f"fbgemm-gpu {versions.fbgemm_gpu} is FBGEMM's CUDA wheel and cannot load without an "
            f"NVIDIA driver ({reason}); found {versions}. "
            f"Run: pip uninstall -y fbgemm-gpu && {_install(versions.torch, cuda=False)}"
        )
    return (
        f"torchrec and fbgemm are installed but do not load ({type(error).__name__}: {reason}); "
        f"found {versions}. Run: pip uninstall -y torchrec fbgemm-gpu fbgemm-gpu-cpu && "
        f"{_install(versions.torch, cuda=cuda)}"
    )


def _install(torch_version: str, *, cuda: bool) -> str:
    """The command that installs what fits a torch (torchrec itself asks for the CUDA wheel)."""
    torch_minor = _minor(torch_version)
    pair = PAIRS[torch_minor]
    if cuda:
        return f"pip install 'torch=={torch_minor}.*' 'torchrec=={pair}.*' 'fbgemm-gpu=={pair}.*'"
    return (
        f"pip install 'torch=={torch_minor}.*' 'fbgemm-gpu-cpu=={pair}.*' tensordict "
        f"pyre-extensions tqdm torchmetrics==1.0.3 && pip install --no-deps 'torchrec=={pair}.*'"
    )


def _version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _minor(version: str) -> str:
    match = re.match(r"\d+\.\d+", version)
    return match.group() if match else version


class _CompatTableFilter(logging.Filter):
    """Drops the lines that some fbgemm versions print at import, one an operator."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "_fbgemm_torch_compat_table" not in record.getMessage()


def forget_groups() -> None:
    """Forget the process groups of earlier trainings, before tables are sharded.

    torchrec asks the other ranks some things only once in a process. A process that has trained
    before, alone or in another group, would not ask, and ranks that have not would wait for it.
    """
    for name, values in _REMEMBERED.items():
        module = importlib.import_module(name)
        for variable, value in values.items():
            if hasattr(module, variable):  # not every version has all of them
                setattr(module, variable, value)


@contextmanager
def quiet() -> Iterator[None]:
    """Run torchrec's import, planning or sharding without its notes and without traces.

    Afterwards root logging is as it was (`logging.warning` installs a handler where there is none),
    so are the levels of the loggers that were silenced, and no environment variable was added.
    """
    root, noise = logging.getLogger(), _CompatTableFilter()
    handlers, environment = list(root.handlers), set(os.environ)
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, _NOISY))}
    root.addFilter(noise)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(noise)
        for logger, level in levels.items():
            logger.setLevel(level)
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)
        for variable in (
            set(os.environ) - environment
        ):  # torch's compiler leaves its cache folder there
            del os.environ[variable]
