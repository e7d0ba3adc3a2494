"""`--format aoti`: the model compiled to machine code by AOTInductor, with its weights inside."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from recmtl.errors import MissingExtraError
from recmtl.exporting.archive import require_no_pickle
from recmtl.exporting.net import ServingNet
from recmtl.exporting.tracing import traced

__all__ = ["load", "require", "write"]

_FILE = "model.pt2"


def require() -> None:
    """Require what compiling needs.

    Raises:
        MissingExtraError: there is no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        found = shutil.which(get_cpp_compiler())
    except InvalidCxxCompiler:
        found = None
    if found is None:
        raise MissingExtraError(
            "`--format aoti` needs a C++ compiler, and none was found. Install g++ (on Debian and "
            "Ubuntu: `apt install g++`), or choose another format."
        )


def write(net: ServingNet, folder: Path) -> None:
    """Compile the net for this machine's CPU, and write it."""
    from torch._inductor import aoti_compile_and_package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch to itself
        aoti_compile_and_package(traced(net), package_path=str(folder / _FILE))
    require_no_pickle(folder / _FILE, kind="aoti")


def load(folder: Path) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Read what `write` wrote.

    Raises:
        CheckpointError: the file holds what torch might unpickle.
    """
    from torch._inductor import aoti_load_package

    require_no_pickle(folder / _FILE, kind="aoti")
    model: Callable[[dict[str, Tensor]], dict[str, Tensor]] = aoti_load_package(str(folder / _FILE))
    return model
