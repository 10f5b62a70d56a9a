"""The loss of conversations: Hugging Face's model under Hugging Face's mask, and under our rows, packed and not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from megatron_patch.data.sft.dataset import RowDataset
from megatron_patch.data.sft.layout import RowLayout
from megatron_patch.data.sft.prepare import SFTData, open_components

from .conftest import WORDS

Record = dict[str, Any]
SEQ = 768


def texts() -> st.SearchStrategy[str]:
    """Never blank, nor with white space at the ends, which templates may trim."""
    words = st.lists(st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8"), max_size=6), max_size=8)
    return words.map(lambda found: f"w{' '.join(found)}.").filter(lambda text: "<" not in text)


def conversations(*, system: bool = True, reasoning: bool = False) -> st.SearchStrategy[Record]:
    """Rows of `messages`, some answers of weight 0, but not all."""
    answer = st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": texts()},
        optional={"weight": st.sampled_from([0, 1])} | ({"reasoning_content": texts()} if reasoning else {}),
    )
    turn = st.tuples(st.fixed_dictionaries({"role": st.just("user"), "content": texts()}), answer)
    first = st.fixed_dictionaries({"role": st.just("system"), "content": texts()})
    heads = st.lists(first, max_size=1) if system else st.just([])
    parts = st.tuples(heads, st.lists(turn, min_size=1, max_size=3))
    return parts.map(lambda found: {"messages": [*found[0], *itertools.chain(*found[1])]}).filter(_is_trained)


def _is_trained(record: Record) -> bool:
    return any(each.get("weight", 1) for each in record["messages"] if each["role"] == "assistant")


def tiny_llama(vocab_size: int) -> Any:
    """Large weights, so that each token and each place changes the loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, initializer_range=0.3, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def expected_loss(model: Any, theirs: Any, marked: str, record: Record) -> float:
    """The sum over the trained tokens of one conversation; turns of weight 0 are context."""
    messages = [{key: value for key, value in each.items() if key != "weight"} for each in record["messages"]]
    out = theirs.apply_chat_template(
        messages, chat_template=marked, tools=record.get("tools"), date_string="26 Jul 2024",
        return_assistant_tokens_mask=True,
    )  # fmt: skip
    weights = iter([each.get("weight", 1) for each in record["messages"] if each["role"] == "assistant"])
    mask: list[bool] = []
    for trained, run in itertools.groupby(out["assistant_masks"]):
        flag = bool(trained and next(weights))
        mask += [flag for _ in run]
    ids = torch.tensor([out["input_ids"]])
    losses = _losses(model, ids[:, :-1], ids[0, 1:], torch.tensor(mask[1:]).float(), None, None)
    return float(losses.sum())


def our_losses(model: Any, folder: Path, records: list[Record], work: Path, packing: bool) -> list[float]:
    """Of each conversation, through file, cache and rows."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = SFTData(tokenizer=folder, seq_length=SEQ, cache=work / "cache", workers=1, overlong="error", max_lost=0)
    (component,) = open_components([str(path)], data, say=lambda line: None)
    assert component.report.samples == len(records), component.report.lines()
    rows = RowDataset(component.samples, RowLayout(seq_length=SEQ, packing=packing, pad_id=0), seed=1)
    found: dict[int, float] = {}
    for number in range(len(rows)):
        found.update(zip(rows.members(number), _row_losses(model, rows[number]), strict=False))
    return [found[number] for number in range(len(records))]


def check(model: Any, theirs: Any, folder: Path, marked: str, records: list[Record], work: Path) -> None:
    """Packed equals unpacked equals Hugging Face's, conversation by conversation."""
    expected = [expected_loss(model, theirs, marked, record) for record in records]
    for packing in (False, True):
        assert our_losses(model, folder, records, work, packing) == pytest.approx(expected, rel=1e-4), packing


def _row_losses(model: Any, item: dict[str, torch.Tensor]) -> list[float]:
    """The loss of each sample of a row, each attending to itself alone; the row is cut after its last label."""
    ends = item["cu_seqlens"].tolist() if "cu_seqlens" in item else [0, SEQ]
    parts = [slice(a, b) for a, b in itertools.pairwise(ends) if b > a]
    length = int(item["loss_mask"].nonzero().max()) + 1
    tokens, labels, mask, positions = (
        item[name][:length] for name in ("tokens", "labels", "loss_mask", "position_ids")
    )
    owner = torch.cat([torch.full((part.stop - part.start,), i) for i, part in enumerate(parts)])[:length]
    allowed = (owner[:, None] == owner[None]) & torch.ones(length, length).tril().bool()
    attention = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None]
    losses = _losses(model, tokens[None], labels, mask, attention, positions[None])
    return [float(losses[part].sum()) for part in parts]


def _losses(model: Any, tokens: Any, labels: Any, mask: Any, attention: Any, positions: Any) -> torch.Tensor:
    """[length]; logits at trained positions only, as vocabularies are large."""
    with torch.no_grad():
        hidden = model.model(tokens, attention_mask=attention, position_ids=positions).last_hidden_state[0]
        at = mask.nonzero().flatten()
        losses = torch.zeros(len(labels))
        losses[at] = (
            torch.nn.functional.cross_entropy(model.lm_head(hidden[at]), labels[at], reduction="none") * mask[at]
        )
    return losses
