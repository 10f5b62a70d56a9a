"""A Hugging Face tokenizer folder, read for one purpose: text to token ids, as `AutoTokenizer` gives them.

`transformers` imports torch, which costs seconds; most folders (Llama 3's among them) need only their
`tokenizer.json`, so that is read with the `tokenizers` library. Folders whose class rebuilds the tokenizer from
other files, or whose other files change a token, go through `transformers`, and the caller is told why.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.data.tokenizers.folder import FLAGS, FolderError, TokenizerFolder, WantedToken, read_folder

AWKWARD = (
    "", " ", "  a  b ", "\n", "\r\n\r\n", "\t\t x", "a\n\n\nb", "don't I'LL we've", "1234567890 12 3.14", "x" * 3000,
    "naïve e\u0301 ß İ ı ſ ﬁ", "北京大学，中文。日本語テキスト", "한국어 텍스트", "क्षेत्र ไทย", "العربية עברית",
    "🦙🧿👩‍👩‍👧‍👦🏳️‍🌈",
    "\u200b\ufeff\xa0\u3000\u2028\x85\x00\x1f", "٣٤ １２３ ⅷ", "𐐷\U0010ffff", "_a__b---c...d!!!", "<|x|> <|", "▁a ▁▁b",
    " leading", "trailing ", "http://a.b/c?d=e&f", "\\n \\u0041", "if (a==b){\n\t\treturn;\n}\n", " " * 100 + "x",
)  # fmt: skip
"""Texts on which tokenizers differ that are not the same."""


class TokenizerError(UserError, ValueError):
    """A folder that holds no usable tokenizer."""


class TextTokenizer:
    """Encodes batches of texts on all cores, special tokens included (BOS where the tokenizer adds one)."""

    def __init__(
        self, backend: Tokenizer, named_tokens: Mapping[str, str], note: Message, difference: Message | None = None
    ) -> None:
        """
        Raises:
            TokenizerError: it names no end of text, or one that it does not have.
        """
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        """`len(tokenizer)` of Hugging Face: added tokens included, not padded."""
        self.named_tokens = named_tokens
        """`bos_token` and its like, as text; only those that exist."""
        self.note = note
        """How it was loaded, for the report."""
        self.difference = difference
        """Where transformers gives other ids than tokenizer.json by itself: which text; else None."""
        if "eos_token" not in named_tokens:
            raise TokenizerError("tokenizer-no-eos")
        self.eod_token = named_tokens["eos_token"]
        """Ends a document: the tokenizer's `eos_token`, as `HuggingFaceTokenizer.eod` of megatron-core 0.19.2."""
        eod_id = backend.token_to_id(self.eod_token)
        if eod_id is None:
            raise TokenizerError("token-absent", name="eos_token", token=self.eod_token)
        self.eod_id: int = eod_id

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, in order. RAYON_NUM_THREADS limits the threads."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts)]


def load_tokenizer(folder: Path) -> TextTokenizer:
    """Read a tokenizer folder; nothing is downloaded and no code of the folder runs.

    Raises:
        TokenizerError: what is missing or wrong there.
    """
    if not folder.is_dir():
        raise TokenizerError("tokenizer-no-folder", folder=folder)
    if not (folder / "tokenizer_config.json").is_file():
        raise TokenizerError("tokenizer-no-config", folder=folder)
    try:
        read = read_folder(folder)
        return _plain(read) or _through_transformers(folder, _why_not_plain(read))
    except FolderError as error:
        raise TokenizerError.of(error.messages) from None
    except TokenizerError as error:
        raise error.about(folder) from None
    except Exception as error:  # the tokenizers library raises bare Exception
        raise TokenizerError("tokenizer-not-readable", folder=folder, error=error) from error


def _plain(read: TokenizerFolder) -> TextTokenizer | None:
    """With tokenizer.json alone, where that is all there is to it."""
    if read.why_not_plain():
        return None
    backend = Tokenizer.from_file(str(read.path / "tokenizer.json"))
    if _changed_token(backend, read):
        return None
    return TextTokenizer(backend, read.named_tokens, Message("note-plain"))


def _why_not_plain(read: TokenizerFolder) -> Message | None:
    if reason := read.why_not_plain():
        return reason
    return _changed_token(Tokenizer.from_file(str(read.path / "tokenizer.json")), read)


def _changed_token(backend: Tokenizer, read: TokenizerFolder) -> Message | None:
    """A token that transformers would add or change; None if there is none."""
    have = {token.content: (number, token) for number, token in backend.get_added_tokens_decoder().items()}
    for wanted in read.wanted_tokens():
        found = have.get(wanted.content)
        if found is None:
            return Message("plain-adds", token=wanted.content)
        if not _same(wanted, *found):
            return Message("plain-changes", token=wanted.content)
    return None


def _same(wanted: WantedToken, number: int, token: AddedToken) -> bool:
    flags = {name: getattr(token, name) for name in FLAGS}
    return wanted.id in (None, number) and (wanted.flags is None or wanted.flags == flags)


def _through_transformers(folder: Path, reason: Message | None) -> TextTokenizer:
    from transformers import AutoTokenizer  # imports torch: only where it must be

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise TokenizerError("tokenizer-slow", name=type(tokenizer).__name__)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = bool(tokenizer.split_special_tokens)  # not in tokenizer.json's format
    differs = _difference(backend, folder / "tokenizer.json", type(tokenizer).__name__)
    note = Message("note-transformers", reason=reason)
    note = Message("also", first=note, second=differs) if differs else note
    return TextTokenizer(backend, tokenizer.special_tokens_map, note, differs)


def _difference(backend: Tokenizer, file: Path, name: str) -> Message | None:
    """A text on which transformers' tokenizer and the file by itself differ."""
    if not file.is_file():
        return None
    own = Tokenizer.from_file(str(file))
    for special, text in ((special, text) for special in (False, True) for text in AWKWARD):
        ours, theirs = (one.encode(text, add_special_tokens=special).ids for one in (backend, own))
        if ours != theirs:
            counts = {"ours": len(ours), "theirs": len(theirs)}
            return Message("note-difference", name=name, text=text[:20], **counts)
    return None
