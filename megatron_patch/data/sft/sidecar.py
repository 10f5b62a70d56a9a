"""What lies beside an SFT idxmap, PREFIX.sft.json, and whether a run may use it. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.errors import UserError
from megatron_patch.common.files import write_json
from megatron_patch.common.messages import Message
from megatron_patch.common.strict_json import read_json
from megatron_patch.data.idxmap.reader import first_length

KIND = "megatron_patch SFT idxmap, version 1"


class BrokenSidecar(UserError, ValueError):
    """A sidecar that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """How an SFT idxmap was built."""

    seq_length: int
    """Positions of a row; each document is that many tokens, then that many labels."""
    packed: bool
    """Whether rows hold several samples."""
    rows: int
    samples: int
    tokens: int
    """Positions that carry a sample, of rows x seq_length."""
    trained_tokens: int
    loss: str
    """`assistant`, `last` or `all`."""
    overlong: str
    """`truncate`, `drop` or `error`."""
    tokenizer_sha256: str
    """Of the bytes of `tokenizer.json`, else of `tokenizer.model`."""
    vocab_size: int
    template_sha256: str
    template_source: str
    bin_sha256: str
    idx_sha256: str
    report: dict[str, Any] = field(default_factory=dict)
    """See `report.DataReport`."""


def path_of(prefix: str | Path) -> Path:
    """Where the sidecar of an idxmap lies."""
    return Path(f"{prefix}.sft.json")


def write(prefix: str | Path, sidecar: Sidecar) -> None:
    """Write it whole or not at all."""
    write_json(path_of(prefix), {"kind": KIND, **asdict(sidecar)}, durable=True)


def read(prefix: str | Path) -> Sidecar | None:
    """The sidecar; None if there is none, as with data that Pai-Megatron-Patch built.

    Raises:
        BrokenSidecar: a file of that name that is not a sidecar.
    """
    path = path_of(prefix)
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        if (kind := content.pop("kind", None)) != KIND:
            raise ValueError(f"kind {kind!r}")
        return Sidecar(**content)
    except (ValueError, TypeError, AttributeError) as error:
        raise BrokenSidecar("sidecar-damaged", file=path, error=error) from None


def tokenizer_sha256(folder: str | Path) -> str:
    """SHA-256 of the bytes of `tokenizer.json`, else of `tokenizer.model`: same hash, same ids.

    Raises:
        OSError: neither of the two files can be read.
    """
    path = Path(folder) / "tokenizer.json"
    return file_sha256(path if path.is_file() else path.with_name("tokenizer.model"))


def problems(prefix: str | Path, *, seq_length: int, tokenizer_sha256: str) -> list[Message]:
    """Why this idxmap cannot be trained on with this sequence length and tokenizer; empty if it can.

    Cheap enough to be asked before launch: reads the sidecar, else the first entries of the index.
    """
    try:
        sidecar = read(prefix)
        if sidecar is None:
            return _problems_of_index(Path(f"{prefix}.idx"), seq_length)
    except UserError as error:
        return list(error.messages)
    except OSError as error:
        return [Message("idxmap-unreadable", prefix=prefix, error=error)]
    found = []
    if sidecar.seq_length != seq_length:
        found.append(Message("sft-other-length", prefix=prefix, built=sidecar.seq_length, wanted=seq_length))
    if sidecar.tokenizer_sha256 != tokenizer_sha256:
        sums = {"built": sidecar.tokenizer_sha256[:12], "wanted": tokenizer_sha256[:12]}
        found.append(Message("sft-other-tokenizer", prefix=prefix, vocabulary=sidecar.vocab_size, **sums))
    return found


def _problems_of_index(index: Path, seq_length: int) -> list[Message]:
    """Pai's layout says its sequence length by the length of its documents alone."""
    length = first_length(index)
    if not length:
        return [Message("idxmap-no-document", file=index)]
    if length != 2 * seq_length:
        return [Message("sft-index-length", file=index, numbers=length, built=f"{length / 2:g}", wanted=seq_length)]
    return []
