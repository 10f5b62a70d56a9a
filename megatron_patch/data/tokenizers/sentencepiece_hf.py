"""A SentencePiece model as a Hugging Face tokenizer: tokenizer.json and tokenizer_config.json with the same ids.

transformers 5.23 reads a bare tokenizer.model as Llama 2's, whatever kind it is: few ids of a unigram model are right.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from megatron_patch.common.messages import Message
from megatron_patch.data.tokenizers.sentencepiece import count_pieces
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""Types of pieces. Source: `SentencePiece.Type` in sentencepiece_model.proto."""
UNIGRAM, BPE = 1, 2
"""Types of models. Source: `TrainerSpec.ModelType`."""
TEXTS = (
    "",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "これは日本語の文章です。数字は１２３、記号は「」と…です。",
    "ｶﾀｶﾅ、ＡＢＣ、①②、が と か\u3099、㍿",
    "中文和 English 混排，한국어도。",
    "def f(x):\n    return {'a': x ** 2}\n\n\tif x: pass\n",
    "  leading, double  and trailing  ",
    "😀 émoji, e\u0301, naïve, \u200b, \xa0, \x07",
    "https://example.org/a_b?c=1&d=%20 3.14159e-10 -- ... !!!",
    "あ" * 50 + " " + "a" * 50,
)
"""Texts on which tokenizers differ."""


MODULES = ("ast", "difflib", "textwrap")
"""Modules of Python's library whose lines are compared too."""
MOST_DIFFERENT = 0.01
"""Share of the texts on which the two may differ: unigram models decide between equally good cuts by rounding, and
tokenizers applies the rules for combining marks to whole characters."""


def write_hf_tokenizer(model: Path, folder: Path) -> Message:
    """Write tokenizer.model, tokenizer.json and tokenizer_config.json into a folder.

    Returns:
        A line on how well the two agree.
    Raises:
        TokenizerError: no SentencePiece model, one of a kind that tokenizer.json cannot express, or different ids.
    """
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    tokenizer = build(read_model(model))
    texts = [*TEXTS, *(line for name in MODULES for line in inspect.getsource(__import__(name)).splitlines())]
    different = [text for text in texts if tokenizer.encode(text, add_special_tokens=False).ids != theirs.encode(text)]
    if len(different) > MOST_DIFFERENT * len(texts):
        counts = {"different": len(different), "texts": len(texts)}
        raise TokenizerError("pieces-differ", file=model, **counts, text=different[-1][:60])
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    ids = special_ids(model)
    config |= {f"{name}_token": theirs.id_to_piece(number) for name, number in ids.items()}
    shutil.copyfile(model, folder / "tokenizer.model")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return Message("pieces-made", file=model.name, same=len(texts) - len(different), texts=len(texts))


def special_ids(model: Path) -> dict[str, int]:
    """Ids of bos, eos, pad and unk, as far as the model has them."""
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = {name: int(getattr(theirs, f"{name}_id")()) for name in ("bos", "eos", "pad", "unk")}
    return {name: number for name, number in ids.items() if number >= 0}


def read_model(path: Path) -> Any:
    """The model's protocol buffer.

    Raises:
        TokenizerError: it is none.
    """
    from sentencepiece import sentencepiece_model_pb2  # its classes are made while it is imported

    content = path.read_bytes()
    try:
        count_pieces(content)
        spec: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
        spec.ParseFromString(content)
    except Exception as error:  # protobuf has a class of its own for it
        raise TokenizerError("pieces-unreadable", file=path, error=error) from None
    return spec


def build(spec: Any) -> Tokenizer:
    """The same tokenizer, in Hugging Face's parts.

    Raises:
        TokenizerError: a kind that they cannot express.
    """
    if spec.trainer_spec.model_type not in (UNIGRAM, BPE) or spec.normalizer_spec.escape_whitespaces is False:
        raise TokenizerError("pieces-kind")
    tokenizer = Tokenizer(_unigram(spec) if spec.trainer_spec.model_type == UNIGRAM else _bpe(spec))
    tokenizer.normalizer = normalizers.Sequence(list(_normalizers(spec)))
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    steps += [decoders.Strip(" ", 1, 0)] if spec.normalizer_spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(steps)
    pieces = [piece for piece in spec.pieces if piece.type in (CONTROL, USER_DEFINED, UNKNOWN)]
    tokenizer.add_tokens([_added(piece) for piece in pieces if piece.type == USER_DEFINED])
    tokenizer.add_special_tokens([_added(piece) for piece in pieces if piece.type != USER_DEFINED])
    return tokenizer


def _added(piece: Any) -> AddedToken:
    return AddedToken(piece.piece, normalized=False, special=piece.type != USER_DEFINED)


def _unigram(spec: Any) -> models.Unigram:
    vocab = [(piece.piece, piece.score) for piece in spec.pieces]
    return models.Unigram(vocab, unk_id=spec.trainer_spec.unk_id, byte_fallback=spec.trainer_spec.byte_fallback)


def _bpe(spec: Any) -> models.BPE:
    """SentencePiece merges the pair whose piece has the highest score: its order among all possible merges.

    Pieces of equal score (Llama 2's have none, Mistral's some) go by their ids, then by those of their halves.
    """
    ids = {piece.piece: number for number, piece in enumerate(spec.pieces)}
    scores = {piece.piece: piece.score for piece in spec.pieces if piece.type == NORMAL}
    found = []
    for piece, score in scores.items():
        cuts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        pairs = [pair for pair in cuts if pair[0] in scores and pair[1] in scores]
        found += [(-score, ids[piece], ids[left], ids[right], left, right) for left, right in pairs]
    merges = [(left, right) for *_, left, right in sorted(found)]
    unknown = spec.pieces[spec.trainer_spec.unk_id].piece
    return models.BPE(
        vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=spec.trainer_spec.byte_fallback
    )


def _normalizers(spec: Any) -> Iterator[Any]:
    rules = spec.normalizer_spec
    if rules.precompiled_charsmap:
        yield normalizers.Precompiled(rules.precompiled_charsmap)
    if rules.remove_extra_whitespaces:
        yield normalizers.Replace(Regex(r"\A +| +\z"), "")
        yield normalizers.Replace(Regex(" {2,}"), " ")
    yield normalizers.Replace(" ", SPACE)
    if rules.add_dummy_prefix:
        yield normalizers.Prepend(SPACE)
