"""What training asks of a tokenizer: ranks read ids, none of them tokenizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
from megatron_patch.data.tokenizers.text_tokenizer import TokenizerError
from megatron_patch.trainer.errors import TrainerError


class TokenIds:
    """As `GPTDataset` of megatron-core 0.19.2 uses its tokenizer; the ids are those of its `HuggingFaceTokenizer`."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            TrainerError: the folder holds no usable tokenizer.
        """
        try:
            read = load_chat_tokenizer(folder)
        except TokenizerError as error:
            raise TrainerError(str(error)) from None
        ids = {name: read.backend.token_to_id(text) for name, text in read.named_tokens.items()}
        self.vocab_size = read.vocab_size
        self.ids = max(read.backend.get_vocab().values()) + 1
        """Highest id + 1: more than `vocab_size` where some are missing."""
        self.eod: int | None = ids["eos_token"]
        self.eos = self.eod
        self.pad: int | None = ids.get("pad_token")
        self.unique_identifiers = {"class": type(self).__qualname__, "tokenizer_path": str(folder)}
        """Part of the names of index files."""


def token_ids(args: Any) -> TokenIds | None:
    """The tokenizer of a Hugging Face folder; None where Megatron's arguments want another, or tokens added to it."""
    changed = args.special_tokens or args.vocab_file or args.merge_file or args.metadata_path
    if args.tokenizer_type != "HuggingFaceTokenizer" or args.padded_vocab_size is None or changed:
        return None
    return TokenIds(Path(args.tokenizer_model))
