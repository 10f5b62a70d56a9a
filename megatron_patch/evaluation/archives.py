"""Unpack an archive once, whole or not at all."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, say
from megatron_patch.evaluation.benchmarks import KNOWN_ARCHIVES

ENDINGS = (".tgz", ".tar.gz", ".tar", ".zip")
_LIMIT = 1 << 30
"""Bytes unpacked: the published archives hold a few MB."""


class ArchiveError(UserError, ValueError):
    """An archive that cannot be, or should not be, unpacked."""


def unpack(archive: Path, below: Path) -> Path:
    """Unpack into a folder named after the archive and its SHA-256, unless that is there already.

    Raises:
        ArchiveError: not an archive, damaged, too large, or with members that point outside.
    """
    if not archive.name.endswith(ENDINGS):
        raise ArchiveError.at(archive, "archive-kind", endings=ENDINGS)
    try:
        digest = file_sha256(archive)
    except OSError as error:
        raise ArchiveError.at(archive, "archive-unreadable", error=error.strerror) from error
    target = below / f"{archive.name.split('.')[0]}-{digest[:12]}"
    if target.is_dir():
        return target
    below.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=below))
    try:
        _extract(archive, partial)
        partial.replace(target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        raise ArchiveError.at(archive, "archive-damaged", error=error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    known = KNOWN_ARCHIVES.get(digest) or Message("archive-unknown")
    say("archive-unpacked", archive=archive, folder=target, known=known, sha256=digest)
    return target


def _extract(archive: Path, folder: Path) -> None:
    """Regular files and folders below `folder`; anything else in the archive refuses all of it."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            size = 0
            for info in zipped.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                size = _checked(archive, info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), size + info.file_size)
            zipped.extractall(folder)
        return
    with tarfile.open(archive) as members:
        size = 0
        for member in members:
            size = _checked(archive, member.name, member.isreg() or member.isdir(), size + member.size)
        members.extractall(folder, filter="data")


def _checked(archive: Path, name: str, usual: bool, size: int) -> int:
    """The size so far, of an archive whose next member may be unpacked."""
    if not usual:
        raise ArchiveError.at(archive, "archive-link", name=name)
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in PureWindowsPath(name).parts:
        raise ArchiveError.at(archive, "archive-outside", name=name)
    if size > _LIMIT:
        raise ArchiveError.at(archive, "archive-large", most=_LIMIT >> 30)
    return size
