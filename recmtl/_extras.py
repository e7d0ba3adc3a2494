"""Which extra brings which optional package; an absent one becomes one sentence with the fix."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType

from recmtl.errors import MissingExtraError

__all__ = ["EXTRA_OF", "import_optional", "naming_the_extra"]

_SCORE = (
    "click",
    "polars",
    "polars_hash",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "yaml",
)
_TRAIN = (
    "jinja2",
    "lightning",
    "matplotlib",
    "psutil",
    "pyre_extensions",
    "tensordict",
    "torchmetrics",
    "tqdm",
)
_EXPORT = ("onnx", "onnxruntime", "onnxscript")
_TUNE = ("optuna",)
_CPU = ("fbgemm_gpu", "torchrec")

EXTRA_OF: dict[str, str] = {
    **dict.fromkeys(_SCORE, "score"),
    **dict.fromkeys(_TRAIN, "train"),
    **dict.fromkeys(_EXPORT, "export"),
    **dict.fromkeys(_TUNE, "tune"),
    **dict.fromkeys(_CPU, "cpu"),
}
"""Import name of each optional package -> the smallest extra that brings it.

The smallest one leaves torch and what fits it as they are.
"""


@contextlib.contextmanager
def naming_the_extra(what: str) -> Iterator[None]:
    """Turn the absence of an optional package inside the block into a `MissingExtraError`.

    Any other failed import, one of our own modules among them, passes through unchanged.

    Args:
        what: what the user asked for, as the message should call it.

    Raises:
        MissingExtraError: a package of `EXTRA_OF` is not installed.

    Example:
        >>> with naming_the_extra("`recmtl.train`"):
        ...     raise ModuleNotFoundError(name="polars.io")
        Traceback (most recent call last):
            ...
        recmtl.errors.MissingExtraError: `recmtl.train` needs `polars`, which is not installed. \
Run `pip install 'recmtl[score]'`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        raise MissingExtraError(
            f"{what} needs `{package}`, which is not installed. {_fix(package)}"
        ) from error


def import_optional(module: str, what: str) -> ModuleType:
    """Import `module`, which may need optional packages, for `what`.

    Example:
        >>> import_optional("json", "the example").__name__
        'json'
    """
    with naming_the_extra(what):
        return importlib.import_module(module)


def _fix(package: str) -> str:
    if package == "torchrec":
        return (
            "On a machine without an NVIDIA GPU run `pip install --no-deps torchrec==1.8.0` "
            "after `pip install 'recmtl[cpu]'`, with one run `pip install 'recmtl[gpu]'`."
        )
    extra = EXTRA_OF[package]
    other = " (`recmtl[gpu]` on a machine with an NVIDIA GPU)" if extra == "cpu" else ""
    return f"Run `pip install 'recmtl[{extra}]'`{other}."
