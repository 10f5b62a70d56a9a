"""Training and validation data: their form, their ids, their shares."""

from __future__ import annotations

from pathlib import Path

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.values import ValueProblem, real
from megatron_patch.data.idxmap import prepared
from megatron_patch.data.sft import sidecar
from megatron_patch.data.tokenizers.chat import chat_problems
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.inputs import DataSource, Tokenizer
from megatron_patch.launch.memory import gigabytes
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Findings


def check_data_form(*, sft: bool, mp_dataset_type: str, mp_sft_packing: bool) -> Findings:
    """Raw JSON and packing are for conversations."""
    if mp_dataset_type == "raw" and not sft:
        yield Problem("raw-without-sft", "MP_DATASET_TYPE", "SFT")
    if mp_sft_packing and not sft:
        yield Problem("packing-without-sft", "MP_SFT_PACKING", "SFT")


def check_sft_tokenizer(*, sft: bool, mp_dataset_type: str, tokenizer: Tokenizer) -> Findings:
    """Conversations need a chat template, unless they are tokens already."""
    if sft and tokenizer.model is not None:
        yield Problem("sft-sentencepiece", "MP_TOKENIZER_PATH", "SFT")
    elif sft:
        for what in chat_problems(Path(tokenizer.path), template=mp_dataset_type == "raw"):
            yield Problem("sft-tokenizer", "MP_TOKENIZER_PATH", "SFT", found=what)


def check_sft_idxmap(
    *,
    sft: bool,
    mp_dataset_type: str,
    seq_len: int,
    tokenizer: Tokenizer,
    train_data: tuple[DataSource, ...],
    valid_data: tuple[DataSource, ...] | None,
) -> Findings:
    """An idxmap of conversations is built for one sequence length and one tokenizer."""
    if not sft or mp_dataset_type != "idxmap" or tokenizer.model is not None:
        return
    sha256 = sidecar.tokenizer_sha256(tokenizer.path)
    for name, corpora in (("DATASET_PATH", train_data), ("VALID_DATASET_PATH", valid_data or ())):
        for corpus in corpora:
            for what in sidecar.problems(corpus.path, seq_length=seq_len, tokenizer_sha256=sha256):
                yield Problem("sft-idxmap", name, "SEQ_LEN", found=what)


def check_pretraining_idxmap(
    *,
    sft: bool,
    mp_dataset_type: str,
    tokenizer: Tokenizer,
    vocab_size: int,
    train_data: tuple[DataSource, ...],
    valid_data: tuple[DataSource, ...] | None,
) -> Findings:
    """An idxmap of texts holds ids of this tokenizer, and no labels. Whole before a start: see `idxmap_check`."""
    if sft or mp_dataset_type != "idxmap":
        return
    every = [("DATASET_PATH", corpus.path) for corpus in train_data]
    every += [("VALID_DATASET_PATH", corpus.path) for corpus in valid_data or ()]
    sha256 = None
    if any(prepared.tokenizer_of(prefix) for _, prefix in every):
        sha256 = file_sha256(Path(tokenizer.model or f"{tokenizer.path}/tokenizer.json"))
    for name, prefix in every:
        for what in prepared.problems(prefix, vocab_size=min(vocab_size, tokenizer.ids), tokenizer_sha256=sha256):
            yield Problem("pretraining-idxmap", name, found=what)


def check_sft_split(*, sft: bool, mp_split: str | None, mp_dataset_type: str) -> Findings:
    """An idxmap does not say which of its samples are of one conversation."""
    if sft and mp_split is not None and mp_dataset_type != "raw":
        yield Problem("split-under-sft", "MP_SPLIT", "SFT")


def check_split(
    *, mp_split: str | None, train_data: tuple[DataSource, ...], valid_data: tuple[DataSource, ...] | None
) -> Findings:
    """MP_SPLIT and VALID_DATASET_PATH both say where the validation data is; every share gets a document."""
    if mp_split is None:
        return
    if valid_data is not None:
        yield Problem("split-and-data", "MP_SPLIT", "VALID_DATASET_PATH")
    parts = mp_split.split(",")
    shares = _shares(parts)
    if len(shares) not in (2, 3) or not shares[0] or not shares[1]:
        yield Problem("split-form", "MP_SPLIT")
        return
    for corpus in sorted(train_data, key=lambda one: one.documents or 0):
        counts = _documents(shares, corpus.documents or 0)
        empty = [part for part, share, count in zip(parts, shares, counts, strict=True) if share and not count]
        if corpus.documents and empty:
            yield _empty_share(empty[0], sum(map(bool, shares)), corpus)
            return  # what suits the smallest suits all


def _shares(parts: list[str]) -> list[float]:
    """Empty where one of them is not a number >= 0."""
    try:
        return [real().parse(part.strip()) for part in parts]
    except ValueProblem:
        return []


def _empty_share(share: str, wanted: int, corpus: DataSource) -> Problem:
    """A share without a document, with shares that give every part at least one, if there are so many."""
    documents = corpus.documents or 0
    values = {"share": share, "documents": documents, "path": corpus.path}
    if documents < wanted:
        return Problem("split-few-documents", "MP_SPLIT", "DATASET_PATH", **values, wanted=wanted)
    suggested = ",".join(map(str, [documents - wanted + 1, *[1] * (wanted - 1)]))
    return Problem("split-empty-share", "MP_SPLIT", "DATASET_PATH", **values, suggested=suggested)


def _documents(shares: list[float], documents: int) -> list[int]:
    """How many documents each share gets. Source: `_build_megatron_dataset_splits` of megatron-core 0.19.2."""
    ends = [round(sum(shares[: number + 1]) / sum(shares) * documents) for number in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


INDEX_BYTES = 20
"""Of RAM while Megatron makes its index of a data set, for each document in each epoch, and for each sample."""


def check_index_memory(
    *,
    train_tokens_or_iters: int,
    sft: bool,
    seq_len: int,
    mp_split: str | None,
    train_data: tuple[DataSource, ...],
    environment: Environment,
) -> Findings:
    """A small corpus that is read very often: the order of all its epochs is kept in RAM.

    Source: `_build_document_index`, gpt_dataset.py of megatron-core 0.19.2: `numpy.mgrid` of epochs x documents.
    """
    if sft or environment.elsewhere:
        return
    total = sum(corpus.weight or corpus.tokens or 0 for corpus in train_data)
    for corpus in train_data:
        if not corpus.tokens or not corpus.documents or not total:
            continue
        wanted = train_tokens_or_iters * (corpus.weight or corpus.tokens) / total
        epochs = wanted / corpus.tokens
        needed = INDEX_BYTES * (epochs * corpus.documents + wanted / seq_len)
        if needed > environment.memory_total_bytes:
            most = train_tokens_or_iters * environment.memory_total_bytes / needed
            figures = {"needed": gigabytes(round(needed)), "ram": gigabytes(environment.memory_total_bytes)}
            told = {"path": corpus.path, "epochs": f"{epochs:.3g}", "most": f"{most:.2g}", **figures}
            yield Problem("index-memory", "TRAIN_TOKENS_OR_ITERS", "DATASET_PATH", **told)
