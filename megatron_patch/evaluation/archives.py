"""Unpack an archive once, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from megatron_patch.evaluation.benchmarks import KNOWN_ARCHIVES

ENDINGS = (".tgz", ".tar.gz", ".tar", ".zip")
_LIMIT = 1 << 30
"""Bytes unpacked: the published archives hold a few MB."""


class ArchiveError(ValueError):
    """An archive that cannot be, or should not be, unpacked."""


def unpack(archive: Path, below: Path) -> Path:
    """Unpack into a folder named after the archive and its SHA-256, unless that is there already.

    Raises:
        ArchiveError: not an archive, damaged, too large, or with members that point outside.
    """
    if not archive.name.endswith(ENDINGS):
        raise ArchiveError(f"{archive}: is neither a folder nor an archive ({', '.join(ENDINGS)})")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    target = below / f"{archive.name.split('.')[0]}-{digest[:12]}"
    if target.is_dir():
        return target
    below.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=below))
    try:
        _extract(archive, partial)
        partial.replace(target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ArchiveError(f"{archive}: cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"unpacked {archive} to {target}; {KNOWN_ARCHIVES.get(digest, 'no published checksum')} (sha256 {digest})")
    return target


def _extract(archive: Path, folder: Path) -> None:
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as members:
            _check_size(archive, sum(info.file_size for info in members.infolist()))
            members.extractall(folder)  # drops "..", and leading slashes
        return
    with tarfile.open(archive) as members:
        _check_size(archive, sum(member.size for member in members))
        members.extractall(folder, filter="data")  # refuses links and paths to the outside, and devices


def _check_size(archive: Path, size: int) -> None:
    if size > _LIMIT:
        raise ArchiveError(f"{archive}: holds {size} bytes; the published data sets have a few MB")
