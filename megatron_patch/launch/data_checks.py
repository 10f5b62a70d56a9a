"""Data that are right alone and wrong for this run: the other half of `checks.py`."""

from __future__ import annotations

from collections.abc import Callable

from megatron_patch.data.sft import sidecar  # standard library only: not a way into the other wing
from megatron_patch.launch.corpus import Corpus
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Step
from megatron_patch.launch.vocabulary import Tokenizer


def check_data_form(*, sft: bool, mp_dataset_type: str, mp_sft_packing: bool) -> Step:
    """Raw JSON and packing are for conversations."""
    if mp_dataset_type == "raw" and not sft:
        what = "raw JSON holds conversations; text for pretraining has to be tokenized first"
        valid = "idxmap (make it with toolkits/pretrain_data_preprocessing), or SFT true"
        yield Problem(names=("MP_DATASET_TYPE", "SFT"), what=what, valid=valid)
    if mp_sft_packing and not sft:
        yield Problem(names=("MP_SFT_PACKING", "SFT"), what="packing is for SFT", valid="false, or SFT true")


def check_sft_tokenizer(*, sft: bool, tokenizer: Tokenizer) -> Step:
    """Conversations need a chat template."""
    if sft and tokenizer.model is not None:
        valid = "a folder with tokenizer.json and a chat template"
        yield Problem(
            names=("MP_TOKENIZER_PATH", "SFT"), what="a SentencePiece model has no chat template", valid=valid
        )


def check_sft_idxmap(
    *,
    sft: bool,
    mp_dataset_type: str,
    seq_len: int,
    tokenizer: Tokenizer,
    train_data: tuple[Corpus, ...],
    valid_data: tuple[Corpus, ...] | None,
) -> Step:
    """An idxmap of conversations is built for one sequence length and one tokenizer."""
    if not sft or mp_dataset_type != "idxmap" or tokenizer.model is not None:
        return
    sha256 = sidecar.tokenizer_sha256(tokenizer.path)
    for name, corpora in (("DATASET_PATH", train_data), ("VALID_DATASET_PATH", valid_data or ())):
        for corpus in corpora:
            for what in sidecar.problems(corpus.path, seq_length=seq_len, tokenizer_sha256=sha256):
                valid = "an idxmap that toolkits/sft_data_preprocessing built for this SEQ_LEN and tokenizer"
                yield Problem(names=(name, "SEQ_LEN"), what=what, valid=valid)


def check_sft_split(*, sft: bool, mp_split: str | None) -> Step:
    """Conversations for validation are named, not split off."""
    if sft and mp_split is not None:
        yield Problem(names=("MP_SPLIT", "SFT"), what="no splitting under SFT", valid="unset, and VALID_DATASET_PATH")


def check_split(*, mp_split: str | None, train_data: tuple[Corpus, ...], valid_data: tuple[Corpus, ...] | None) -> Step:
    """MP_SPLIT and VALID_DATASET_PATH both say where the validation data is; every share gets a document."""
    if mp_split is None:
        return
    if valid_data is not None:
        what = "both say where the validation data comes from"
        yield Problem(names=("MP_SPLIT", "VALID_DATASET_PATH"), what=what, valid="one of them; VALID_DATASET_PATH none")
    parts = mp_split.split(",")
    try:
        shares = [float(part) for part in parts]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or any(share < 0 for share in shares) or not shares[0] or not shares[1]:
        yield Problem(names=("MP_SPLIT",), what="no shares of training and validation", valid="such as 99,1")
        return
    for corpus in train_data:
        empty = [
            part for part, share in zip(parts, _documents(shares, corpus.documents or 0), strict=True) if not share
        ]
        if corpus.documents and any(float(part) for part in empty):
            what = f"a share of {empty[0]} of the {corpus.documents} documents in {corpus.path} is none"
            yield Problem(names=("MP_SPLIT", "DATASET_PATH"), what=what, valid="larger shares, or more documents")


def _documents(shares: list[float], documents: int) -> list[int]:
    """How many documents each share gets. Source: `_build_megatron_dataset_splits` of megatron-core 0.19.2."""
    ends = [round(sum(shares[: number + 1]) / sum(shares) * documents) for number in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


DATA_CHECKS: tuple[Callable[..., Step], ...] = (
    check_data_form,
    check_sft_tokenizer,
    check_sft_idxmap,
    check_sft_split,
    check_split,
)
