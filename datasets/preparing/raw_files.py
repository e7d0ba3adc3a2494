"""The owners' files as they come: plain, gzipped, zipped, or zipped in a zip."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from recmtl.errors import DataError


class RawFile(NamedTuple):
    """A file, or a member of a zip archive, which may itself be in one."""

    path: Path
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join([str(self.path), *self.members])

    @property
    def name(self) -> str:
        """Its own name, without folders and archives."""
        return Path(self.members[-1]).name if self.members else self.path.name

    @property
    def num_bytes(self) -> int:
        """Roughly, once it is unpacked."""
        packed = bool(self.members) or self.path.suffix == ".gz"
        return self.path.stat().st_size * (6 if packed else 1)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The unpacked bytes."""
        with ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(self.path.open("rb"))
            for member in self.members:
                archive = stack.enter_context(zipfile.ZipFile(file))
                file = stack.enter_context(archive.open(member))
            if self.path.suffix == ".gz":
                file = stack.enter_context(gzip.open(file))
            yield file


def find(raw: Path, name: str, *, archives: Sequence[str] = ()) -> RawFile | None:
    """The owner's file `name`: as it is, with `.gz`, zipped, or in one of the owner's archives."""
    if raw.is_dir():
        files = {path.name.lower(): path for path in sorted(raw.iterdir()) if path.is_file()}
        zipped = [f"{name}.zip", f"{Path(name).stem}.zip"]
        for file in (name, f"{name}.gz"):
            if path := files.get(file.lower()):
                return RawFile(path)
        for file in zipped:
            if path := files.get(file.lower()):
                return RawFile(path, (_member(path.open("rb"), path, [name]),))
        for path in (files[a.lower()] for a in archives if a.lower() in files):
            outer = _member(path.open("rb"), path, [name, *zipped])
            if not outer.lower().endswith(".zip"):
                return RawFile(path, (outer,))
            with RawFile(path, (outer,)).open() as inner:
                return RawFile(path, (outer, _member(inner, path / outer, [name])))
    return None


def require(raw: Path, name: str, *, archives: Sequence[str] = ()) -> RawFile:
    """The same, or an error.

    Raises:
        DataError: the file is not there.
    """
    found = find(raw, name, archives=archives)
    if found is None:
        inside = "".join(f", nor `{archive}`" for archive in archives)
        raise DataError(
            f"{raw}: there is no `{name}` (plain, `.gz` or `.zip`){inside}. RAW must be the folder "
            "with the owner's files."
        )
    return found


def _member(file: IO[bytes], path: Path, names: Sequence[str]) -> str:
    """The member of an archive that has one of these names, or its only one."""
    wanted = [name.lower() for name in names]
    try:
        with file, zipfile.ZipFile(file) as archive:
            members = [m.filename for m in archive.infolist() if not m.is_dir()]
    except (zipfile.BadZipFile, OSError, zlib.error) as error:
        raise DataError(f"{path}: no zip archive ({error}); get the file again.") from error
    members = [m for m in members if not m.startswith("__MACOSX/")]
    found = [m for m in members if Path(m).name.lower() in wanted] or members
    if len(found) != 1:
        raise DataError(f"{path}: expected one file `{names[0]}`, found {len(members)} others.")
    return found[0]
