"""ExportedScorer: an export as a callable, on raw rows or on encoded tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmtl.checkpoint.manifest import read_json
from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders
from recmtl.data.frames import beside, column_names, require_columns, to_polars
from recmtl.errors import CheckpointError, RecMTLError
from recmtl.exporting.certificate import CERTIFICATE, read_certificate, require_machine
from recmtl.exporting.formats import Model, load_model
from recmtl.exporting.inputs import ModelInput, calls_of, require_inputs, tensors_of

__all__ = ["ExportedScorer"]

_FORWARD_ROWS = 4096


class ExportedScorer:
    """An export as a callable on frames, as `BatchScorer` is one of a run.

    It needs the packages of `recmtl[score]`, and for ONNX those of `recmtl[export]`. It is pickled
    by its path and options, and a process that unpickles it for every task reads the export once.

    Attributes:
        certificate: what `certificate.json` says.
        schema: what `schema.json` says: `columns` of raw rows, `inputs` and `outputs` of the model.

    Args:
        folder: the folder of an export.
        keep: columns to copy to the output.

    Raises:
        CheckpointError: a file of the export was changed, is missing, or is none of its own; or it
            was compiled for another machine.
        MissingExtraError: a package that its format needs is not installed.
    """

    def __init__(self, folder: str | Path, *, keep: Sequence[str] = ()) -> None:
        self.path = Path(folder).absolute()
        self.keep = (keep,) if isinstance(keep, str) else tuple(dict.fromkeys(keep))
        self.certificate = read_certificate(self.path)
        self.schema: dict[str, Any] = read_json(self.path / "schema.json")
        self._model = self._load()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), self.path, self.keep)

    @property
    def format(self) -> str:
        """`safetensors`, `torch-export`, `aoti` or `onnx`."""
        return str(self.certificate["export"]["format"])

    @property
    def tables(self) -> str:
        """How embedding rows are kept: `fp32`, `fp16`, `int8` or `int4`."""
        return str(self.certificate["export"]["tables"])

    @cached_property
    def config(self) -> RunConfig:
        """The config of the run."""
        return load_spec(self.path / "config.yaml")

    @cached_property
    def encoders(self) -> Encoders:
        """The run's encoders."""
        return Encoders.load(self.path / "encoders")

    @cached_property
    def inputs(self) -> tuple[ModelInput, ...]:
        """What the model takes."""
        return tuple(ModelInput.of(each) for each in self.schema["inputs"])

    def columns(self) -> dict[str, str]:
        """Output column of each task."""
        return {output["name"]: output["column"] for output in self.schema["outputs"]}

    def encode(self, rows: Any) -> dict[str, Tensor]:
        """Raw rows as the tensors that the model takes.

        Raises:
            DataError: a column is missing or has another type than in training, or `rows` is of
                another type.
        """
        frame = to_polars(rows, self.schema["columns"])
        batch = self.encoders.encode(frame, labels=False)
        return tensors_of(batch, self.config, self.inputs)

    @torch.no_grad()
    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """What each task predicts.

        Args:
            inputs: tensors or arrays by name, as `schema` says: ids inside their tables.

        Returns:
            Task -> ``[B]``, or ``[B, C]`` for a multiclass task.

        Raises:
            DataError: an input is missing or unknown, of another type or shape, or holds an id
                outside its table.
        """
        return self._model(require_inputs(self.inputs, inputs))

    def __call__(self, rows: Any) -> Any:
        """Score a polars or pandas frame, a pyarrow Table or a RecordBatch, and answer in kind.

        Raises:
            DataError: a column is missing or has another type than in training, or `rows` is of
                another type.
            SpecError: a column to keep has the name of a score.
        """
        if isinstance(rows, pl.LazyFrame):
            rows = rows.collect()
        columns = self.schema["columns"]
        scores = self.columns().values()
        require_columns(column_names(rows), features=columns, keep=self.keep, scores=scores)
        return beside(rows, self.keep, self._scores(to_polars(rows, columns)))

    def _scores(self, frame: pl.DataFrame) -> dict[str, NDArray[np.float32]]:
        parts = [
            self.predict(tensors)
            for start in range(0, frame.height, _FORWARD_ROWS)
            for _, tensors in calls_of(
                self.encoders.encode(frame[start : start + _FORWARD_ROWS], labels=False),
                self.config,
                self.inputs,
            )
        ]
        found = {}
        for output in self.schema["outputs"]:
            nothing = torch.zeros(0, *output["shape"][1:])
            tensors = [part[output["name"]] for part in parts]
            found[output["column"]] = torch.cat([nothing, *tensors]).numpy()
        return found

    def _load(self) -> Model:
        about = self.certificate["export"]
        if about["format"] == "aoti":
            require_machine(self.path, self.certificate["machine"])
        try:
            return load_model(about["format"], self.path, about["tables"])
        except RecMTLError:
            raise
        except Exception as error:
            made, here = self.certificate["versions"].get("torch"), torch.__version__
            raise CheckpointError(
                f"{self.path}: the model cannot be loaded ({type(error).__name__}: "
                f"{str(error)[:300]}). It was exported with torch {made}, and this is {here}; "
                "export the run again with this one."
            ) from error


def _unpickled(cls: type[ExportedScorer], path: Path, keep: tuple[str, ...]) -> ExportedScorer:
    """The scorer of these options, the same one as long as the export is the same."""
    file = path / CERTIFICATE
    about = file.read_bytes() if file.is_file() else b""
    return _opened(cls, path, keep, about)  # type: ignore[arg-type]  # a class has a hash


@lru_cache(maxsize=1)
def _opened(
    cls: type[ExportedScorer],
    path: Path,
    keep: tuple[str, ...],
    about: bytes,  # another one is another export
) -> ExportedScorer:
    return cls(path, keep=keep)
