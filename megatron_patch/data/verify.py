"""Whether Megatron's `.bin`/`.idx` files are whole: what `toolkits/sft_data_preprocessing/verify.py` runs.

Megatron 0.19.2 itself maps a flipped bit, extra bytes, a negative length, another dataset's `.bin`, and reads tokens
out of an empty one. Structure shows most of that; a token changed into another is only seen by checksums: those of the
tool that built it (PREFIX.build.json, PREFIX.sft.json), or PREFIX.sha256, as `sha256sum -c` reads it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import print_error
from megatron_patch.common.files import write_text
from megatron_patch.common.messages import Message, localized, say
from megatron_patch.common.strict_json import read_json
from megatron_patch.common.terminal import guard
from megatron_patch.data.check_idxmap import blocks
from megatron_patch.data.idxmap.reader import BrokenIndex, Index, problems_of, read_index, size_problem
from megatron_patch.data.sft import sidecar
from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
from megatron_patch.data.sft.idxmap import IGNORED
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError


@dataclass(kw_only=True)
class DatasetVerdict:
    """What was found about one dataset."""

    prefix: str
    wrong: list[Message] = field(default_factory=list)
    notes: list[Message] = field(default_factory=list)
    """What could not be checked, and counts."""


def verify(
    prefix: str, vocab_size: int | None = None, tokenizer_sha256: str | None = None, sft: bool = False
) -> DatasetVerdict:
    """Check everything that can be checked.

    Args:
        sft: documents are tokens, then labels, as an SFT sidecar also says.
        vocab_size: ids must be below it; None takes that of an SFT sidecar, or checks them not.
        tokenizer_sha256: an SFT sidecar must agree with it.
    """
    finding = DatasetVerdict(prefix=prefix)
    try:
        beside = sidecar.read(prefix)
        index = read_index(Path(f"{prefix}.idx"))
        finding.wrong += [*problems_of(index), *filter(None, [size_problem(index, Path(f"{prefix}.bin"))])]
        if empty := int((index.lengths == 0).sum()):
            finding.notes.append(Message("verify-empty", sequences=empty))
        if beside:
            vocab_size = vocab_size or beside.vocab_size
            _check_sidecar(index, beside, tokenizer_sha256, finding)
        if not finding.wrong:  # with a wrong index the tokens are not where it says
            _check_tokens(index, Path(f"{prefix}.bin"), vocab_size, sft or beside is not None, finding)
        counts = {"documents": len(index.documents) - 1, "sequences": len(index.lengths)}
        tokens = int(index.lengths.sum(dtype=np.int64))
        finding.notes.append(Message("verify-counts", **counts, tokens=tokens, type=index.dtype))
        _check_sums(prefix, beside, finding)
    except (BrokenIndex, sidecar.BrokenSidecar) as error:
        finding.wrong += error.messages
        _check_sums(prefix, None, finding)
    return finding


def _check_sidecar(
    index: Index, beside: sidecar.Sidecar, tokenizer_sha256: str | None, finding: DatasetVerdict
) -> None:
    if len(index.lengths) != beside.rows or (index.lengths != 2 * beside.seq_length).any():
        said = {"rows": beside.rows, "length": beside.seq_length, "documents": len(index.lengths)}
        ends = {"least": index.lengths.min(initial=0), "most": index.lengths.max(initial=0)}
        finding.wrong.append(Message("verify-sidecar", **said, **ends))
    if tokenizer_sha256 not in (None, beside.tokenizer_sha256):
        finding.wrong.append(Message("verify-tokenizer"))


def _check_tokens(index: Index, path: Path, vocab_size: int | None, sft: bool, finding: DatasetVerdict) -> None:
    """Ids are 0 to the vocabulary's end; in SFT data -1 - id ends a sample, and labels may be -100."""
    if vocab_size is None:
        finding.notes.append(Message("verify-no-vocabulary"))
        vocab_size = np.iinfo(np.int64).max
    for start, block in blocks(index, path):
        tokens = block.astype(np.int64)
        bad = tokens >= vocab_size
        if sft:
            is_label = ((start + np.arange(len(tokens))) // (int(index.lengths[0]) // 2)) % 2 == 1
            bad |= (tokens < 0) & np.where(is_label, tokens != IGNORED, -1 - tokens >= vocab_size)
        else:
            bad |= tokens < 0
        if bad.any():
            at = int(np.argmax(bad))
            first = {"sequence": index.sequence_at(start + at), "token": int(tokens[at])}
            finding.wrong.append(Message("verify-wrong-id", **first, ids=vocab_size, such=int(bad.sum())))
            return


def _check_sums(prefix: str, beside: sidecar.Sidecar | None, finding: DatasetVerdict) -> None:
    sums = {"bin": beside.bin_sha256, "idx": beside.idx_sha256} if beside else _sums_of_build(prefix, finding)
    listed = Path(f"{prefix}.sha256")
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            sums.setdefault(name.rpartition(".")[2], digest)
    if not sums:
        finding.notes.append(Message("verify-no-sums", file=listed))
    for suffix in ("bin", "idx"):
        path = Path(f"{prefix}.{suffix}")
        if suffix in sums and path.is_file() and file_sha256(path) != sums[suffix]:
            finding.wrong.append(Message("file-changed", file=path))


def _sums_of_build(prefix: str, finding: DatasetVerdict) -> dict[str, str]:
    """The checksums in PREFIX.build.json, which `preprocess` writes."""
    path = Path(f"{prefix}.build.json")
    if not path.is_file():
        return {}
    try:
        build = read_json(path)
        return {suffix: str(build[f"{suffix}_sha256"]) for suffix in ("bin", "idx")}
    except (ValueError, KeyError, TypeError) as error:
        finding.wrong.append(Message("file-damaged", file=path, error=repr(error)))
        return {}


def write_sums(prefix: str) -> Path:
    """Record checksums of both files, for later; `sha256sum -c` in their folder reads them."""
    path = Path(f"{prefix}.sha256")
    files = [Path(f"{prefix}.{suffix}") for suffix in ("bin", "idx")]
    write_text(path, "".join(f"{file_sha256(file)}  {file.name}\n" for file in files), durable=True)
    return path


def main(argv: list[str]) -> int:
    """The command; 0 all whole, 1 something is wrong, 2 wrong values."""
    parser = ArgumentParser(prog="verify.py", description=localized("verify-about"))
    parser.add_argument("prefixes", nargs="+", metavar="PREFIX", help=localized("verify-help-prefix"))
    parser.add_argument("--tokenizer", type=Path, help=localized("verify-help-tokenizer"))
    parser.add_argument("--vocab-size", type=int, help=localized("verify-help-vocabulary"))
    parser.add_argument("--sft", action="store_true", help=localized("verify-help-sft"))
    parser.add_argument("--write-sums", action="store_true", help=localized("verify-help-sums"))
    args = parser.parse_args(argv)
    vocab_size, digest = args.vocab_size, None
    if args.tokenizer:
        try:
            tokenizer = load_chat_tokenizer(args.tokenizer)
        except TokenizerError as error:
            print_error(error.about("--tokenizer"), os.environ)
            return 2
        vocab_size, digest = tokenizer.vocab_size, tokenizer.sha256
    failed = False
    for prefix in (name.removesuffix(".bin").removesuffix(".idx") for name in args.prefixes):
        finding = verify(prefix, vocab_size, digest, args.sft)
        failed |= bool(finding.wrong)
        say("verify-broken" if finding.wrong else "verify-whole", prefix=prefix)
        for message in (*finding.wrong, *(Message("note", text=note) for note in finding.notes)):
            say("indented", text=message)
        if args.write_sums and not finding.wrong and not Path(f"{prefix}.sha256").is_file():
            say("indented", text=Message("wrote", file=write_sums(prefix)))
    return int(failed)


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
