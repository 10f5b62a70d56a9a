"""Train a small tokenizer of Llama 3.1's kind, and save it as a Hugging Face folder.

    python -m megatron_patch.data.train_tokenizer TEXT.jsonl FOLDER [--vocab-size 4096] [--json-key text]

Byte-level BPE with Llama 3.1's pre-tokenizer, its 256 special tokens after the trained ones (as 128000 ... 128255
there), BOS in front of each text, and its chat template. Loads offline with `AutoTokenizer.from_pretrained(FOLDER)`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from itertools import count
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UsageError, UserError, print_error
from megatron_patch.common.messages import localized, say
from megatron_patch.common.terminal import guard
from megatron_patch.data.corpus import find_corpus, texts_of
from megatron_patch.data.jsonl import DataError

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts text before merging: contractions, words, up to three digits, punctuation, white space."""

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
NAMED_TOKENS = {
    0: BOS,
    1: EOS,
    4: PAD,
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
}
"""Offset of each named special token after the trained vocabulary; the others are reserved."""
NUM_SPECIAL_TOKENS = 256
FILES = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
"""Of a tokenizer folder."""
CONTEXT = 131072
"""Llama 3.1's, in tokens."""


def special_tokens() -> list[str]:
    """All 256 in the order of their ids."""
    reserved = iter(range(NUM_SPECIAL_TOKENS))
    return [NAMED_TOKENS.get(i) or f"<|reserved_special_token_{next(reserved)}|>" for i in range(NUM_SPECIAL_TOKENS)]


def train(files: list[Path], vocab_size: int, key: str = "text") -> Tokenizer:
    """Byte-level BPE on the documents of these files: JSON Lines, plain or compressed, or Parquet.

    Args:
        vocab_size: of the result, the 256 special tokens included; at least 512 (256 bytes and those).
    Raises:
        DataError: a line that is not a document, or no document at all.
    """
    tokenizer = Tokenizer(BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size - NUM_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = count(1)
    tokenizer.train_from_iterator((text for text, _ in zip(texts_of(files, key), documents, strict=False)), trainer)
    if next(documents) == 1:
        raise DataError("corpus-without-document", files=files)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special_tokens()])
    bos_first = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), bos_first])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder beside its place and move it there; an old one is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token in special_tokens()
    }
    names = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    config = {
        "added_tokens_decoder": added,
        **names,
        "chat_template": Path(__file__).with_name("llama3_1_chat.jinja").read_text(encoding="utf-8"),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    try:
        tokenizer.save(str(partial / "tokenizer.json"))
        for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", names)):
            (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check(folder: Path, vocab_size: int) -> None:
    """
    Raises:
        UsageError: too small a vocabulary, or a folder that something else lies in: only an older one is replaced.
    """
    if vocab_size < 2 * NUM_SPECIAL_TOKENS:
        raise UsageError("usage-vocabulary", found=vocab_size)
    if folder.exists() and not folder.is_dir():
        raise UsageError("file-not-folder").about(f"FOLDER {folder}")
    if others := sorted({path.name for path in folder.iterdir()} - FILES) if folder.is_dir() else []:
        raise UsageError("usage-not-tokenizer", names=others[:3]).about(f"FOLDER {folder}")


def main() -> int:
    """The command line; 0 done, 2 wrong values or no text."""
    parser = ArgumentParser(prog="train_tokenizer", description=localized("train-tokenizer-about"))
    parser.add_argument("text", type=Path, help=localized("train-tokenizer-help-text"))
    parser.add_argument("folder", type=Path, help=localized("train-tokenizer-help-folder"))
    parser.add_argument("--vocab-size", type=int, default=4096, help=localized("train-tokenizer-help-vocabulary"))
    parser.add_argument("--json-key", default="text", help=localized("help-json-key"))
    args = parser.parse_args()
    try:
        check(args.folder, args.vocab_size)
        tokenizer = train(find_corpus(args.text), args.vocab_size, args.json_key)
    except UserError as error:
        print_error(error, os.environ)
        return 2
    found = tokenizer.get_vocab_size(with_added_tokens=True)
    if found != args.vocab_size:
        say("trained-fewer", found=found, asked=args.vocab_size)
    save(tokenizer, args.folder)
    say("trained", tokens=found, eos=EOS, id=tokenizer.token_to_id(EOS), folder=args.folder)
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main())
