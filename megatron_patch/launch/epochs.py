"""A length or an interval typed in epochs: `3epochs`. What it is in iterations is settled before the plan is made.

Under pretraining the `.idx` files say how many tokens an epoch has. Under SFT it is rows that count, packed ones under
packing, and nobody knows them before the conversations are tokenized: a process that may import numpy tokenizes them
into the run's own cache, which the ranks then find there. A run that goes on keeps the count it began with.

An interval is the same number of iterations everywhere, rounded up: that is what Megatron's trainer knows.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from megatron_patch.common.messages import Message, from_json, localized
from megatron_patch.common.strict_json import is_whole
from megatron_patch.common.terminal import INTERRUPTED
from megatron_patch.launch.argv import blend_words
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.plan import Plan, values_of
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.schedule import EpochCount, Epochs, constant, count_iterations, read_stages
from megatron_patch.runs.folder import CACHE

LENGTHS = ("train_tokens_or_iters", "warmup_tokens_or_iters")
INTERVALS = ("save_interval", "mp_eval_interval", "mp_lr_wsd_decay_iters")
DECAY = "mp_lr_decay_iters"
"""An iteration of the run: a length that is typed in iterations under pretraining, too."""
BEYOND = 10**12
UNCOUNTED = {**dict.fromkeys((*INTERVALS, DECAY)), **dict.fromkeys((*LENGTHS, "save_interval"), BEYOND)}
"""What stands for epochs before they are counted, in the plan that is looked at for other errors."""
DECIDING = (
    "DATASET_PATH",
    "SEQ_LEN",
    "MP_DATASET_TYPE",
    "MP_SPLIT",
    "MP_SFT_PACKING",
    "MP_SFT_LOSS",
    "MP_SFT_OVERLONG",
    "MP_SFT_DROPPED",
    "MP_SFT_TURNS",
)
"""Values that decide how many rows an epoch has: where one is another than before, a run that goes on counts anew."""


def take_epochs(facts: dict[str, Any]) -> dict[str, Epochs]:
    """Take what is in epochs out of the facts: steps that ask for iterations wait until it is settled."""
    facts["epochs"] = None
    return {name: facts.pop(name) for name in (*LENGTHS, *INTERVALS, DECAY) if isinstance(facts.get(name), Epochs)}


def settle_tokens(facts: dict[str, Any], asked: Mapping[str, Epochs]) -> list[Problem]:
    """Under pretraining put tokens in the place of epochs, iterations where these are typed.

    Returns:
        What is wrong with epochs of these data, under SFT too.
    """
    problems = _grown(facts, asked)
    if not asked or "train_data" not in facts or "sft" not in facts:
        return problems
    sources, names = facts["train_data"], [name.upper() for name in asked]
    if any(source.weight is not None for source in sources):
        return [*problems, *(Problem("epochs-weights", name, "DATASET_PATH") for name in names)]
    if facts["sft"] or any(source.tokens is None for source in sources):
        return problems
    if facts.get("mp_split"):
        return [*problems, *(Problem("epochs-split", name, "MP_SPLIT") for name in names)]
    tokens = sum(source.tokens for source in sources)
    facts |= {name: epochs.tokens_of(tokens) for name, epochs in asked.items() if name in LENGTHS}
    if "global_batch_size" in facts and "seq_len" in facts:
        each = facts["global_batch_size"] * facts["seq_len"]
        facts |= {name: epochs.every(tokens, each) for name, epochs in asked.items() if name in INTERVALS}
        problems += _settle_decay(facts, asked, tokens)
    facts["epochs"] = _count(asked, tokens)
    return problems


def _settle_decay(facts: dict[str, Any], asked: Mapping[str, Epochs], size: int) -> list[Problem]:
    """The end of the decay, rounded as TRAIN_TOKENS_OR_ITERS is: the same epochs are the same iteration."""
    if DECAY not in asked:
        return []
    stages, seq_len = facts.get("mp_batch_schedule"), facts["seq_len"]
    batches = read_stages(stages, sft=False, seq_len=seq_len) if stages else constant(facts["global_batch_size"])
    found, words = count_iterations(asked[DECAY].tokens_of(size), False, batches, seq_len)
    if found == 0:
        names = (DECAY.upper(), "GLOBAL_BATCH_SIZE", "SEQ_LEN")
        return [Problem("no-iteration", *names, arithmetic=words, tokens=batches.stages[0].batch * seq_len)]
    facts[DECAY] = found
    return []


def _grown(facts: Mapping[str, Any], asked: Mapping[str, Epochs]) -> list[Problem]:
    """While the batch grows an epoch takes fewer and fewer iterations, and an interval stays the same."""
    if "," not in (facts.get("mp_batch_schedule") or ""):
        return []
    return [Problem("epochs-grown", name.upper(), "MP_BATCH_SCHEDULE") for name in asked if name in INTERVALS]


def settle_rows(facts: dict[str, Any], asked: Mapping[str, Epochs], rows: int) -> None:
    """Under SFT put iterations in the place of epochs.

    Args:
        rows: of one epoch.
    """
    facts |= {position: epochs.of(rows, facts["batches"]) for position, epochs in asked.items()}
    train, warmup = LENGTHS
    if train in asked and warmup in asked and asked[warmup].is_shorter_than(asked[train]):
        facts[warmup] = min(facts[warmup], facts[train] - 1)  # rounded up, it may be the whole of a short run
    facts["epochs"] = _count(asked, rows)


def _count(asked: Mapping[str, Epochs], size: int) -> EpochCount:
    return EpochCount(asked={name.upper(): epochs.number for name, epochs in asked.items()}, size=size)


def rows_before(plan: Plan) -> int | None:
    """The rows of an epoch that a run which goes on has counted when it began; None where it has to count."""
    before = plan.earlier.plan
    if plan.resume_iteration is None or before is None or before.epochs is None:
        return None
    now = values_of(plan)
    if any(before.values.get(name) != now[name] for name in DECIDING):
        return None
    rows = before.epochs.get("size")
    return rows if is_whole(rows, 1, 2**63) else None


def count_rows(plan: Plan, *, keep: bool) -> tuple[int, list[Problem]]:
    """Rows of one epoch, by `data/sft/count_rows.py`, whose progress is seen on stderr.

    Args:
        keep: the tokenized data stay in the run's cache; else they are thrown away, unless they lie there already.
    Returns:
        The rows, and what is wrong with the data.
    Raises:
        SystemExit: Ctrl-C.
    """
    import subprocess  # 10 ms that other starts save

    settings = plan.variables
    asked = {
        "words": blend_words(plan.train_data, sft=True),
        "data": {
            "tokenizer": plan.tokenizer.path,
            "seq_length": plan.config.seq_len,
            "kind": settings.dataset_type,
            "cache": f"{plan.output}/{CACHE}",
            "loss": settings.sft_loss,
            "overlong": settings.sft_overlong,
            "dropped": settings.sft_dropped,
            "turns": settings.sft_turns,
            "max_lost": settings.sft_max_lost,
        },
        "split": settings.split,
        "packing": settings.sft_packing,
        "context_parallel_size": plan.layout.cp,
        "keep": keep,
    }
    sys.stdout.flush()
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "megatron_patch.data.sft.count_rows"],
            input=json.dumps(asked),
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    except KeyboardInterrupt:
        print(localized("epochs-interrupted"), file=sys.stderr)
        sys.exit(INTERRUPTED)
    if done.returncode:
        why = Message("ended-status", status=done.returncode)
        return 0, [Problem("epochs-count-fails", "DATASET_PATH", why=why)]
    answer = json.loads(done.stdout)
    problems = [Problem("epochs-count-fails", "DATASET_PATH", why=from_json(why)) for why in answer["wrong"]]
    problems += [Problem("epochs-unwritable", "OUTPUT_BASEPATH", why=why) for why in answer["unwritable"]]
    return answer["rows"], problems
