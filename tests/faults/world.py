"""A small world on disk, made once for a campaign: text, conversations, a tokenizer, idxmaps; and the 25 values."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from tokenizers import Tokenizer

from megatron_patch.checkpoint.random_model import make_hf_checkpoint
from megatron_patch.data.train_tokenizer import save, train
from megatron_patch.models import model_of_size

REPOSITORY = Path(__file__).resolve().parents[2]
SEQ, SFT_SEQ, BATCH = 32, 160, 2
TEXT = "a rank that is gone cannot say why so others must know what it did and where it was"
WORDS = re.findall("[a-z]+", TEXT)


def make_world(folder: Path) -> Path:
    """Fill a folder, unless it is full already."""
    if (folder / "text_document.idx").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(20, 60))) for _ in range(200)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = [
        {"messages": [{"role": "user", "content": text[:20]}, {"role": "assistant", "content": text[20:50]}]}
        for text in texts[:64]
    ]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save(train([folder / "text.jsonl"], vocab_size=512), folder / "tokenizer")
    small = replace(model_of_size("tiny"), num_layers=2, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4)
    small = replace(small, num_query_groups=2, head_dim=16, vocab_size=512)
    make_hf_checkpoint(folder / "model", small, precision="fp32", tokenizer=folder / "tokenizer")
    _write_idxmap(folder)
    return folder


def _write_idxmap(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    builder = IndexedDatasetBuilder(str(folder / "text_document.bin"), dtype=np.uint16)
    for line in (folder / "text.jsonl").read_text().splitlines():
        ids = np.array(tokenizer.encode(json.loads(line)["text"]).ids, dtype=np.uint16)
        builder.add_document(ids, [len(ids)])
    builder.finalize(str(folder / "text_document.idx"))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of the tiny model, as 25 values and MP_ variables."""

    world: Path
    output: Path
    sft: bool = False
    background: bool = True
    processes: int = 2
    iterations: int = 12
    save_interval: int = 3
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def values(self) -> list[Any]:
        """The 25."""
        data = self.world / ("chat.jsonl" if self.sft else "text_document")
        seq, tokens = (SFT_SEQ, 1) if self.sft else (SEQ, BATCH * SEQ * self.processes)
        return [
            "dsw", "auto", BATCH, BATCH * self.processes, 1e-3, 1e-4, seq, seq, "fp32", 1, 1, 1, "false",
            "true", "true", "true" if self.sft else "false", "false", "false", self.save_interval, data, "none",
            self.world / "model", self.iterations * tokens, 2 * tokens, self.output,
        ]  # fmt: skip

    @property
    def environ(self) -> dict[str, str]:
        """The user's environment, without MP_ variables of whoever runs the campaign."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MP_", "PYTEST"))}
        mine = {
            "MP_NPROC": str(self.processes),
            "MP_TOKENIZER_PATH": str(self.world / "tokenizer"),
            "MP_BACKGROUND_SAVE": str(self.background).lower(),
            "MP_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "MP_LOGGERS": "none",
        }
        if self.sft:
            mine |= {"MP_DATASET_TYPE": "raw"}
        return clean | mine | dict(self.variables)

    @property
    def checkpoints(self) -> Path:
        """Where they lie."""
        return self.output / "checkpoints"

    def complete(self) -> list[int]:
        """Iterations that can be resumed from, oldest first."""
        folders = [path for path in self.checkpoints.glob("iter_*") if (path / "metadata.json").exists()]
        return sorted(int(path.name.removeprefix("iter_")) for path in folders)

    def metrics(self) -> list[dict[str, Any]]:
        """Whole lines of metrics.jsonl."""
        path = self.output / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def losses(self) -> list[float]:
        """Of training, in order."""
        return [record["loss"] for record in self.metrics() if "loss" in record]
