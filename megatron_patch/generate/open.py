"""From what was typed to a model in memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_patch.checkpoint.hf_model import HFModel, HFModelError, hf_model_of
from megatron_patch.common.files import real_path
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.strict_json import read_object
from megatron_patch.generate.errors import GenerateError
from megatron_patch.generate.options import ModelFlags
from megatron_patch.runs.folder import PLAN, read_plan

if TYPE_CHECKING:
    from megatron_patch.generate.model import Answer, AnsweringModel

START = "PRETRAIN_CHECKPOINT_PATH"


def find(path: Path, flags: ModelFlags) -> HFModel:
    """The Hugging Face folder of a path; what is exported for that is said on standard error.

    Raises:
        GenerateError: there is none.
    """
    try:
        return hf_model_of(path, flags.hf_path, flags.cache, log=sys.stderr)
    except HFModelError as error:
        raise GenerateError.of(error.messages) from error


def load(found: HFModel, flags: ModelFlags) -> AnsweringModel:
    """Read it into memory, and say on standard error what it is.

    Raises:
        GenerateError, TokenizerError: it cannot be used.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported
    from megatron_patch.generate.model import AnsweringModel  # seconds: not before the arguments are known to be good

    model = AnsweringModel(found.folder, device=flags.device, dtype=flags.dtype)
    print(localized("at", path=found.label, what=model.described), file=sys.stderr, flush=True)
    return model


def started_from(path: Path) -> Path:
    """The weights that the training of a run, or of an adapter, started from.

    Raises:
        GenerateError: nobody wrote that down, or they are not there.
    """
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        told = read_object(adapter).get("base_model_name_or_path")
    else:
        above = (real_path(path), *real_path(path).parents)
        run = next((folder for folder in above if (folder / PLAN).is_file()), None)
        plan = read_plan(run) if run else None
        if plan is None:
            raise GenerateError("generate-no-run", path=path)
        told = plan.values.get(START)
    if told in (None, "", "none"):
        raise GenerateError("generate-from-nothing", path=path)
    if not Path(told).is_dir():
        raise GenerateError("generate-start-gone", path=path, start=told)
    return Path(told)


def why_short(answer: Answer) -> Message | None:
    """What to say of an answer that the model did not end itself."""
    from megatron_patch.generate.model import LENGTH, POSITIONS, STOPPED

    codes = {LENGTH: "generate-length", POSITIONS: "generate-positions", STOPPED: "generate-stopped"}
    code = codes.get(answer.ended)
    return Message(code, tokens=answer.tokens) if code else None
