"""A Hugging Face folder that answers: its own weights, tokenizer, chat template and end-of-turn token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging

from megatron_patch.common.messages import Message
from megatron_patch.data.sft.chat_tokenizer import load_chat_tokenizer
from megatron_patch.data.sft.formats import ChatMessage, MalformedRow
from megatron_patch.data.sft.rendering.template import ChatTemplate
from megatron_patch.data.tokenizers.text_tokenizer import load_tokenizer
from megatron_patch.generate.errors import GenerateError
from megatron_patch.generate.stream import TokenStream

END, LENGTH, POSITIONS, STOPPED = "end", "length", "positions", "stopped"
"""What ended an answer: the model, `max_new_tokens`, its last position, Ctrl-C."""


Show = Callable[[str], object]
"""Gets each piece of an answer's text."""


def ignore(text: str) -> None:
    """A Show that shows nothing."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen; None is the model's own generation_config.json, and where that says nothing, greedy."""

    max_new_tokens: int
    temperature: float | None = None
    """0 is greedy."""
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 1234

    def arguments(self) -> dict[str, Any]:
        """Of transformers' `generate`."""
        given = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        given = {name: value for name, value in given.items() if value is not None}
        return {"do_sample": True, **given} if given else {}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model wrote."""

    text: str
    tokens: int
    """Special ones among them."""
    ended: str
    """END, LENGTH, POSITIONS or STOPPED."""


class RefuseNan(LogitsProcessor):
    """NaN as a logit: sampling would fail in the middle of CUDA, greedy decoding would write token 0 for ever."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[batch, tokens] and [batch, vocabulary]; returns the scores."""
        if torch.isnan(scores).any():
            raise GenerateError("generate-nan")
        return scores


class AnsweringModel:
    """One model in memory."""

    def __init__(self, folder: Path, *, device: str | None = None, dtype: str = "auto") -> None:
        """
        Args:
            folder: of Hugging Face; no code of it runs.
            device: cpu, cuda, cuda:1, or auto to spread it over all GPUs; None is the first GPU, else the CPU.
            dtype: of the weights and the arithmetic; auto is the checkpoint's.
        Raises:
            GenerateError: it cannot be loaded.
            TokenizerError: no usable tokenizer lies with it.
        """
        self.folder = folder
        self.tokenizer = load_tokenizer(folder).backend
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                folder, device_map=place, dtype=dtype, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # whatever transformers makes of a foreign folder
            first = next(iter(str(error).strip().splitlines()), "")
            reason = f"{type(error).__name__}: {first}".removesuffix(": ")
            raise GenerateError("generate-not-loaded", folder=folder, device=place, error=reason) from error
        self.model.eval()

    @property
    def described(self) -> Message:
        """Size, element type and place."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return Message("generate-model", parameters=self.model.num_parameters(), dtype=dtype, device=self.model.device)

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's own, else Llama 3.1's, as in training.

        Raises:
            TemplateError, TokenizerError: there is none that can be used.
        """
        return ChatTemplate.of(load_chat_tokenizer(self.folder))

    @cached_property
    def ends(self) -> set[int]:
        """Tokens that end a text by the model's configuration."""
        told = self.model.generation_config.eos_token_id
        return set(told if isinstance(told, list) else [] if told is None else [told])

    def continued(self, text: str, sampling: Sampling) -> Answer:
        """Go on with a text, as in pretraining: the tokenizer adds what it adds (BOS).

        Raises:
            GenerateError: as `_write`.
        """
        return self._write(self.tokenizer.encode(text).ids, self.ends, sampling, ignore)

    def answered(self, messages: list[ChatMessage], sampling: Sampling, show: Show = ignore) -> Answer:
        """Answer a conversation that ends with a turn of the user's.

        Args:
            show: gets each piece of text as it is written.
        Raises:
            GenerateError: the template refuses the conversation; else as `_write`.
            TemplateError: there is no template.
        """
        try:
            text = self.template.prompt(messages)
        except MalformedRow as error:
            raise GenerateError("generate-refused", error=error) from None
        end = self.tokenizer.token_to_id(self.template.end) if self.template.end else None
        ends = self.ends | ({end} if end is not None else set())
        return self._write(self.tokenizer.encode(text, add_special_tokens=False).ids, ends, sampling, show)

    def _write(self, ids: list[int], ends: set[int], sampling: Sampling, show: Show) -> Answer:
        """
        Raises:
            GenerateError: the prompt is empty or too long, does not fit the memory, or the logits are NaN.
        """
        room = self._room(ids)
        most = min(sampling.max_new_tokens, room)
        stream = TokenStream(self.tokenizer, show)
        ended = LENGTH if most < room else POSITIONS
        prompt = torch.tensor([ids], device=self.model.device)
        torch.manual_seed(sampling.seed)
        try:
            with _memory_errors():
                self.model.generate(
                    prompt, attention_mask=torch.ones_like(prompt), streamer=stream, max_new_tokens=most,
                    eos_token_id=sorted(ends) or None, pad_token_id=min(ends, default=0),
                    logits_processor=LogitsProcessorList([RefuseNan()]), **sampling.arguments(),
                )  # fmt: skip
        except KeyboardInterrupt:
            stream.end()
            ended = STOPPED
        if stream.ids and stream.ids[-1] in ends:
            ended = END
        return Answer(text=stream.text, tokens=len(stream.ids), ended=ended)

    def _room(self, ids: list[int]) -> int:
        """Tokens that fit behind a prompt."""
        if not ids:
            raise GenerateError("generate-empty-prompt")
        rows = self.model.get_input_embeddings().weight.shape[0]
        if max(ids) >= rows:
            raise GenerateError("generate-token-beyond", folder=self.folder, id=max(ids), rows=rows)
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2**31
        if len(ids) >= positions:
            raise GenerateError("generate-too-long", tokens=len(ids), positions=positions)
        return int(positions) - len(ids)


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GenerateError("generate-memory", error=str(error).splitlines()[0]) from error
