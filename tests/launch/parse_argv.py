"""Parse argv lists with the pinned Megatron's own parser: `python parse_argv.py FILE`, in a process of its own.

FILE is JSON: a list of objects with `name`, `argv` and `world_size`. Prints, as JSON, what Megatron made of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

SHOWN = """
    num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels padded_vocab_size
    untie_embeddings_and_output_weights rotary_base use_rope_scaling rope_scaling_factor layernorm_epsilon
    swiglu add_bias_linear hidden_dropout attention_dropout tensor_model_parallel_size
    pipeline_model_parallel_size virtual_pipeline_model_parallel_size context_parallel_size data_parallel_size
    sequence_parallel micro_batch_size global_batch_size seq_length train_iters lr min_lr lr_warmup_iters
    lr_decay_iters use_distributed_optimizer fp16 bf16 fp8 fp8_recipe fp8_param_gather recompute_granularity
    recompute_num_layers cpu_offloading_num_layers fine_grained_activation_offloading offload_modules
    optimizer_cpu_offload optimizer_offload_fraction load finetune ckpt_step sft_data
    train_data_path valid_data_path data_path split spec transformer_impl save_interval eval_iters
""".split()  # noqa: SIM905


def parse(case: dict[str, Any]) -> dict[str, Any]:
    """Let Megatron parse and validate one argv as rank 0 of its world."""
    from megatron.training.arguments import parse_and_validate_args
    from megatron.training.global_vars import unset_global_variables

    from megatron_patch.trainer.arguments import add_arguments

    sys.argv = ["pretrain_llama.py", *case["argv"]]
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(case["world_size"]), "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    with contextlib.redirect_stdout(sys.stderr):
        args = parse_and_validate_args(extra_args_provider=add_arguments)
        unset_global_variables()
    shown = {name: getattr(args, name) for name in SHOWN}
    return shown | {"attention_backend": args.attention_backend.name}


def main() -> None:
    """Parse all cases; a case that Megatron refuses ends the process with its message."""
    from megatron_patch.backend import enable

    enable("cpu")  # a GPU's argv is parsed here too: no kernel is touched
    parsed = {}
    for case in json.loads(Path(sys.argv[1]).read_text()):
        try:
            parsed[case["name"]] = parse(case)
        except BaseException as error:
            print(f"{case['name']}: {type(error).__name__}: {error}", file=sys.stderr)
            raise
    print(json.dumps(parsed))


if __name__ == "__main__":
    main()
