"""Values that are right alone and wrong together: one file a subject.

As in launch/resolve.py, a check runs if the facts that it names are there.
"""

from __future__ import annotations

from megatron_patch.launch.checks.adapters import (
    check_adapters,
    check_adapters_asked_for,
    check_freeze,
    check_patterns,
    find_first_adapter,
)
from megatron_patch.launch.checks.data import (
    check_data_form,
    check_index_memory,
    check_pretraining_idxmap,
    check_sft_idxmap,
    check_sft_split,
    check_sft_tokenizer,
    check_split,
)
from megatron_patch.launch.checks.jobs import (
    check_batch_script,
    check_kubernetes,
    check_kubernetes_env,
    check_kubernetes_name,
)
from megatron_patch.launch.checks.layout import (
    check_chunks,
    check_chunks_send,
    check_cuda_graphs,
    check_flags_of_graphs,
    check_interleaving,
    check_pipeline_parallel,
    check_sequence,
    check_sequence_parallel,
    check_tensor_parallel,
    check_tp_overlap,
)
from megatron_patch.launch.checks.precision import (
    check_activations,
    check_attention,
    check_fp8_extra,
    check_fp8_shape,
    check_gradient_precision,
    check_muon,
    check_optimizer_offload,
    check_precision,
)
from megatron_patch.launch.checks.saving import check_best, check_best_interval, check_weights_only
from megatron_patch.launch.checks.schedule import (
    check_batch,
    check_decay,
    check_length,
    check_padding,
    check_profile,
    check_rates,
    check_schedule,
    check_skipped,
    find_batches,
)
from megatron_patch.launch.checks.surroundings import (
    check_cluster,
    check_flags_on_cpu,
    check_loggers,
    check_megatron_args,
    check_output,
    check_output_beside_data,
    check_wandb,
)
from megatron_patch.launch.resolve import STEPS, found_by, in_order

CHECKS = in_order(
    check_tensor_parallel,
    check_pipeline_parallel,
    check_chunks,
    find_batches,
    check_batch,
    check_interleaving,
    check_sequence,
    check_sequence_parallel,
    check_length,
    check_padding,
    check_rates,
    check_schedule,
    check_decay,
    check_profile,
    check_activations,
    check_optimizer_offload,
    check_muon,
    check_precision,
    check_fp8_shape,
    check_fp8_extra,
    check_attention,
    find_first_adapter,
    check_adapters,
    check_adapters_asked_for,
    check_patterns,
    check_freeze,
    check_gradient_precision,
    check_tp_overlap,
    check_cuda_graphs,
    check_data_form,
    check_sft_tokenizer,
    check_sft_idxmap,
    check_pretraining_idxmap,
    check_sft_split,
    check_split,
    check_index_memory,
    check_best,
    check_best_interval,
    check_weights_only,
    check_cluster,
    check_wandb,
    check_loggers,
    check_megatron_args,
    check_flags_on_cpu,
    check_chunks_send,
    check_flags_of_graphs,
    check_skipped,
    check_output,
    check_output_beside_data,
    check_kubernetes_env,
    check_kubernetes,
    check_kubernetes_name,
    check_batch_script,
    known=found_by(STEPS),
)
