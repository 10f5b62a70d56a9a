"""Transformer Engine's model and transformers' on one GPU, layer by layer: FOLDER fp32|bf16 -> JSON.

Both start from one Hugging Face folder and read 2 x 1024 random tokens. Prints, for each layer's residual stream and
the logits, the relative errors [ours, theirs] against transformers in fp32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from megatron_patch.backend import enable

enable("cuda")

import torch  # noqa: E402
from megatron.core import parallel_state  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec  # noqa: E402
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from megatron_patch.checkpoint.check.megatron import transformer_config  # noqa: E402
from megatron_patch.checkpoint.formats.hf_folder import open_hf_folder  # noqa: E402
from megatron_patch.checkpoint.hf_start import load_hf_into  # noqa: E402
from megatron_patch.models import padded_vocab_size  # noqa: E402

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def ours(folder: Path, dtype: torch.dtype, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the layers [s, b, h], then the logits [b, s, v]."""
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel(1, 1)
    model_parallel_cuda_manual_seed(1234)
    hf = open_hf_folder(folder, "auto")
    shape = hf.shape
    model = GPTModel(
        transformer_config(shape, dtype, 1, 1),
        get_gpt_layer_with_transformer_engine_spec(),
        padded_vocab_size(hf.vocab_size),
        shape.max_position_embeddings,
        position_embedding_type="rope",
        rotary_base=shape.rope_theta,
        rope_scaling=shape.rope_scaling is not None,
        rope_scaling_factor=shape.rope_scaling.factor if shape.rope_scaling else 8.0,
        share_embeddings_and_output_weights=shape.tie_embeddings,
    )
    model = model.cuda().to(dtype).eval()
    load_hf_into([model], folder)
    seen: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).transpose(0, 1))

    for layer in model.decoder.layers:
        layer.register_forward_hook(keep)
    positions = torch.arange(tokens.shape[1], device="cuda").expand_as(tokens)
    logits = model(tokens, positions, None)
    return [*seen, logits]


@torch.no_grad()
def main() -> None:
    """Compare."""
    folder, dtype = Path(sys.argv[1]), DTYPES[sys.argv[2]]
    torch.manual_seed(0)
    tokens = torch.randint(0, open_hf_folder(folder, "auto").vocab_size, (2, 1024), device="cuda")
    exact, theirs = hugging_face(folder, torch.float32, tokens), hugging_face(folder, dtype, tokens)
    *layers, _, logits = ours(folder, dtype, tokens)
    errors = [
        [float((one.double() - right.double()).norm() / right.double().norm()) for one in pair]
        for *pair, right in zip([*layers, logits], theirs, exact, strict=True)
    ]
    print(json.dumps(errors))


def hugging_face(folder: Path, dtype: torch.dtype, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of the layers but the last, which is normed already, then the logits."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).cuda().eval()
    output = model(tokens, output_hidden_states=True)
    return [*output.hidden_states[1:-1], output.logits]


if __name__ == "__main__":
    main()
