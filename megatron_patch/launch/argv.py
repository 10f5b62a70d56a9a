"""Plan -> the flags of Megatron's parser, and of ours. Pure: the same plan gives the same list.

Flags that stock Megatron would take by default are left out, except where a default is a trap.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from megatron_patch.launch import cuda_graphs, tp_overlap
from megatron_patch.launch.inputs import DataSource
from megatron_patch.launch.memory import has_fp8_weights
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.variables import BY_FIELD, VARIABLES
from megatron_patch.models.megatron import ARCHITECTURE, architecture_flags
from megatron_patch.runs.folder import CACHE, TENSORBOARD

Flags = list[str]

OFFLOADED_MODULES = ("qkv_linear", "core_attn", "attn_proj")
"""Parts of a layer whose inputs AC=offload moves to the CPU in a pipeline; 0.19.2 has none for a dense MLP."""
LOGIT_ROWS = 128
"""Logits at trained positions come in multiples of so many rows, the tile of a matmul."""
CPU_LAYERS = ("megatron_patch.backend.cpu.layers", "local_layer_spec")
"""Module and function of the layer without Transformer Engine."""


@dataclass(frozen=True)
class FlagBuilder:
    """A builder of flags, and all that it may give; a test holds that it gives no other."""

    build: Callable[[Plan], Flags]
    flags: frozenset[str]
    passes: tuple[str, ...]
    """Fields of Variables whose flags it passes on."""

    def __call__(self, plan: Plan) -> Flags:
        return self.build(plan)


def emits(flags: str = "", passes: tuple[str, ...] = ()) -> Callable[[Callable[[Plan], Flags]], FlagBuilder]:
    """Declare what a builder gives: flags, and variables that it passes on."""
    declared = frozenset([*flags.split(), *(BY_FIELD[name].flag for name in passes)])
    return lambda build: FlagBuilder(build, declared, passes)


def passed(plan: Plan, *names: str) -> Flags:
    """The flags of variables that are only passed on."""
    return [word for name in names for word in BY_FIELD[name].argv(getattr(plan.variables, name))]


def megatron_argv(plan: Plan) -> Flags:
    """All flags, in groups."""
    return [word for group in GROUPS for word in group(plan)]


ADAPTERS = (
    *("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_rslora", "lora_rank_pattern"),
    *("lora_alpha_pattern", "lora_adapter", "freeze"),
)


@emits(
    "--base-checkpoint --device --export-hf --export-hf-every --hf-checkpoint --output-dir",
    passes=("z_loss", *ADAPTERS),
)
def own_flags(plan: Plan) -> Flags:
    """Those that `trainer/arguments.py` declares."""
    flags = ["--device", plan.device, "--output-dir", plan.output]
    flags += passed(plan, "z_loss", *ADAPTERS)
    flags += ["--export-hf", plan.export] if plan.variables.export_hf else []
    flags += ["--export-hf-every"] if plan.exports_every else []
    adapters = plan.variables.lora_rank is not None  # whose base is read at every start
    if adapters and plan.weights.kind == "mcore":
        flags += ["--base-checkpoint", plan.weights.folder]
    if plan.weights.kind == "hf" and (adapters or plan.resume_iteration is None):
        flags += ["--hf-checkpoint", plan.weights.path]
    return flags


@emits(ARCHITECTURE)
def model_flags(plan: Plan) -> Flags:
    """The architecture."""
    return architecture_flags(plan.model, plan.variables.init_std)


@emits("--padded-vocab-size --tokenizer-model --tokenizer-type")
def tokenizer_flags(plan: Plan) -> Flags:
    """The rows of the embedding are said outright: Megatron would take them from the tokenizer, padded by TP."""
    tokenizer = plan.tokenizer
    kind = "SentencePieceTokenizer" if tokenizer.model else "HuggingFaceTokenizer"
    return [
        *("--tokenizer-type", kind, "--tokenizer-model", tokenizer.model or tokenizer.path),
        *("--padded-vocab-size", str(plan.vocab_rows)),
    ]


@emits(
    "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split --context-parallel-size "
    "--cuda-graph-impl "
    "--decoder-first-pipeline-num-layers --decoder-last-pipeline-num-layers --distributed-backend "
    "--num-virtual-stages-per-pipeline-rank --pipeline-model-parallel-layout --pipeline-model-parallel-size "
    "--sequence-parallel --tensor-model-parallel-size --tp-comm-overlap --tp-comm-overlap-cfg "
    "--tp-comm-overlap-rs-dgrad",
    passes=("distributed_timeout_minutes",),
)
def parallel_flags(plan: Plan) -> Flags:
    """How the model is cut, and what the ranks talk through."""
    layout = plan.layout
    flags = ["--tensor-model-parallel-size", str(layout.tp), "--pipeline-model-parallel-size", str(layout.pp)]
    flags += ["--context-parallel-size", str(layout.cp)]
    if layout.sequence_parallel:
        flags += ["--sequence-parallel"]
    if plan.tp_overlap is not None:
        flags += tp_overlap.flags(plan.tp_overlap)
    if plan.cuda_graphs:
        flags += cuda_graphs.FLAGS
    uneven = not layout.ends_count and len(set(layout.stage_layers)) > 1
    if layout.chunks > 1 and uneven:
        chunks = "|".join(f"t*{layers}" for layers in layout.chunk_layers())
        flags += ["--pipeline-model-parallel-layout", f"E{chunks}L"]
    elif layout.chunks > 1:
        flags += ["--num-virtual-stages-per-pipeline-rank", str(layout.chunks)]
    if layout.ends_count:
        flags += ["--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"]
    elif layout.chunks == 1 and uneven:
        first, last = layout.stage_layers[0], layout.stage_layers[-1]
        flags += ["--decoder-first-pipeline-num-layers", str(first), "--decoder-last-pipeline-num-layers", str(last)]
    flags += ["--distributed-backend", "nccl" if plan.device == "cuda" else "gloo"]
    return [*flags, *passed(plan, "distributed_timeout_minutes")]


@emits(
    "--eval-global-batch-size --global-batch-size --micro-batch-size --seq-length --step-batch-size-schedule "
    "--train-iters --train-samples",
    passes=("seed",),
)
def batch_flags(plan: Plan) -> Flags:
    """Batch, length and seed. Where the batch grows Megatron counts samples, and knows no global batch."""
    config, schedule = plan.config, plan.schedule
    flags = ["--micro-batch-size", str(config.batch_size)]
    if grows(plan):
        stages = ",".join(f"{stage.start * config.seq_len}:{stage.batch}" for stage in schedule.batches.stages)
        flags += ["--step-batch-size-schedule", stages, "--eval-global-batch-size", str(config.global_batch_size)]
        length = ["--train-samples", str(schedule.samples)]
    else:
        flags += ["--global-batch-size", str(config.global_batch_size)]
        length = ["--train-iters", str(schedule.train_iters)]
    return [*flags, "--seq-length", str(config.seq_len), *length, *passed(plan, "seed")]


def grows(plan: Plan) -> bool:
    """Whether the batch is scheduled (MP_BATCH_SCHEDULE)."""
    return plan.variables.batch_schedule is not None


MUON = ("muon_momentum", "muon_nesterov", "muon_scale", "muon_scale_mode", "muon_steps", "muon_tp")
RATE = (
    "--lr --lr-decay-iters --lr-decay-samples --lr-warmup-iters --lr-warmup-samples --lr-wsd-decay-iters "
    "--lr-wsd-decay-samples --lr-wsd-decay-style --min-lr"
)
"""What `rate_flags` may give."""


def rate_flags(plan: Plan) -> Flags:
    """The learning rate; Megatron's decay includes the warm-up."""
    config, schedule, rate = plan.config, plan.schedule, plan.schedule.rate
    flags = ["--lr", repr(config.lr), "--min-lr", repr(config.min_lr), *passed(plan, "lr_decay_style")]
    unit, decay, warmup, wsd = "iters", schedule.decay_iters, schedule.warmup_iters, schedule.wsd_iters
    if grows(plan):
        unit, decay, warmup, wsd = "samples", rate.decay, rate.warmup, rate.wsd
    flags += [f"--lr-decay-{unit}", str(decay), f"--lr-warmup-{unit}", str(warmup)]
    if rate.style == "WSD":
        flags += [f"--lr-wsd-decay-{unit}", str(wsd), "--lr-wsd-decay-style", rate.wsd_style]
    return flags


@emits(
    "--dist-ckpt-optim-fully-reshardable --exp-avg-dtype --exp-avg-sq-dtype --main-grads-dtype "
    "--optimizer-cpu-offload --optimizer-offload-fraction --overlap-cpu-optimizer-d2h-h2d --overlap-grad-reduce "
    f"--overlap-param-gather --use-distributed-optimizer --use-precision-aware-optimizer {RATE}",
    passes=("optimizer", *MUON, "lr_decay_style", "weight_decay", "clip_grad", "adam_beta1", "adam_beta2", "adam_eps"),
)
def optimizer_flags(plan: Plan) -> Flags:
    """The optimizer, and how its state is kept."""
    config = plan.config
    flags = [*passed(plan, "optimizer"), *rate_flags(plan)]
    flags += passed(plan, *MUON) if plan.variables.optimizer == "muon" else []
    flags += passed(plan, "weight_decay", "clip_grad", "adam_beta1", "adam_beta2", "adam_eps")
    if config.do:
        # Any later layout can load it; the default restores step 0 at another one without a word.
        flags += ["--use-distributed-optimizer", "--dist-ckpt-optim-fully-reshardable"]
    if overlaps(plan):
        flags += ["--overlap-grad-reduce"] + (["--overlap-param-gather"] if config.do else [])
    if plan.offload_fraction > 0:
        flags += ["--optimizer-cpu-offload", "--optimizer-offload-fraction", repr(plan.offload_fraction)]
        flags += ["--use-precision-aware-optimizer", "--overlap-cpu-optimizer-d2h-h2d"]
    if plan.precision.adam.compact:
        flags += ["--use-precision-aware-optimizer"]
        flags += ["--main-grads-dtype", "bf16"] if plan.gradient_bf16 else []
    if plan.precision.adam.moments_bf16:
        flags += ["--exp-avg-dtype", "bf16", "--exp-avg-sq-dtype", "bf16"]
    return flags


def overlaps(plan: Plan) -> bool:
    """Whether gradients travel while others are computed: on GPUs with somebody to send them to.

    Not beside offloaded activations, whose hooks on the same tensors it meets (Pai-Megatron-Patch leaves it out too).
    """
    return plan.device == "cuda" and plan.layout.dp * plan.layout.cp > 1 and plan.config.ac != "offload"


@emits(
    "--bf16 --fp16 --fp8-amax-compute-algo --fp8-amax-history-len --fp8-extra --fp8-format --fp8-param-gather "
    "--fp8-recipe --grad-reduce-in-bf16 --initial-loss-scale",
)
def precision_flags(plan: Plan) -> Flags:
    """PR."""
    pr = plan.config.pr
    if pr == "fp32":
        return []
    if pr == "fp16":  # from 2**32, the default, the first 16 iterations would overflow and be skipped
        return ["--fp16", "--initial-loss-scale", "65536"]
    flags = ["--bf16"] + (["--grad-reduce-in-bf16"] if plan.gradient_bf16 else [])
    if pr == "fp8":
        flags += ["--fp8-format", "hybrid", "--fp8-recipe", plan.variables.fp8_recipe]
        if plan.variables.fp8_recipe == "delayed":
            flags += ["--fp8-amax-history-len", "1024", "--fp8-amax-compute-algo", "max"]
        if gathers_fp8(plan):
            flags += ["--fp8-param-gather"]
        if plan.variables.fp8_extra != "none":
            flags += ["--fp8-extra", *plan.variables.fp8_extra.split(",")]
    return flags


def gathers_fp8(plan: Plan) -> bool:
    """Whether weights travel in FP8."""
    recipe, offloaded = plan.variables.fp8_recipe, plan.offload_fraction
    return has_fp8_weights(distributed_optimizer=plan.config.do, offload_fraction=offloaded, recipe=recipe)


@emits(
    "--allow-unfused-attention --attention-backend --cross-entropy-fusion-impl --cross-entropy-loss-fusion "
    "--manual-gc --manual-gc-interval --no-check-for-nan-in-loss-and-grad --no-gradient-accumulation-fusion "
    "--no-masked-softmax-fusion --no-persist-layer-norm --no-rope-fusion --spec --transformer-impl "
    "--use-cpu-initialization",
)
def kernel_flags(plan: Plan) -> Flags:
    """Which implementation computes."""
    flags = ["--attention-backend", attention_backend(plan)]
    if plan.device == "cuda":
        flags += ["--transformer-impl", "transformer_engine"]
        if plan.config.pr != "fp16":  # backend/gpu/cross_entropy.py puts its kernel in the place of `native`
            flags += ["--cross-entropy-loss-fusion", "--cross-entropy-fusion-impl", "native"]
        if plan.variables.clip_grad > 0:  # backend/step_gate.py checks the norm instead, without waiting for the GPU
            flags += ["--no-check-for-nan-in-loss-and-grad"]
        flags += ["--allow-unfused-attention"] if plan.variables.allow_unfused_attention else []
        return [*flags, "--no-masked-softmax-fusion", "--manual-gc", "--manual-gc-interval", "100"]
    flags += ["--transformer-impl", "local", "--spec", *CPU_LAYERS]
    flags += ["--use-cpu-initialization"]  # TP 1 and TP 2 start from the same weights only with it
    return [
        *flags,
        *("--no-gradient-accumulation-fusion", "--no-masked-softmax-fusion"),
        *("--no-rope-fusion", "--no-persist-layer-norm"),
    ]


def attention_backend(plan: Plan) -> str:
    """MP_ATTENTION_BACKEND, else FL: on GPUs auto (backend/gpu/attention.py) or cuDNN, on the CPU flash or math."""
    if plan.variables.attention_backend:
        return plan.variables.attention_backend
    if plan.device == "cuda":
        return "auto" if plan.config.fl else "fused"
    return "flash" if plan.config.fl else "unfused"


@emits(
    "--cpu-offloading-num-layers --fine-grained-activation-offloading --offload-modules --recompute-granularity "
    "--recompute-method --recompute-num-layers",
)
def recompute_flags(plan: Plan) -> Flags:
    """AC."""
    ac, layers = plan.config.ac, str(plan.variables.ac_layers)
    if ac == "sel":
        return ["--recompute-granularity", "selective"]
    if ac == "full":  # uniform, as in Pai-Megatron-Patch: every layer, in groups of MP_AC_LAYERS
        method = ["--recompute-method", plan.variables.ac_method, "--recompute-num-layers", layers]
        return ["--recompute-granularity", "full", *method]
    if offloads_modules(plan):
        return ["--fine-grained-activation-offloading", "--offload-modules", *OFFLOADED_MODULES]
    return ["--cpu-offloading-num-layers", layers] if ac == "offload" else []


def offloads_modules(plan: Plan) -> bool:
    """AC=offload in a pipeline: Megatron can move what parts of layers read there, but not whole layers."""
    return plan.config.ac == "offload" and plan.layout.pp > 1


@emits(
    "--calculate-per-token-loss --data-cache-path --data-path --no-create-attention-mask-in-dataloader --num-workers "
    "--sft-data --sft-split --split --train-data-path --trained-logits --valid-data-path",
    passes=("sft_loss", "sft_average", "sft_overlong", "sft_max_lost", "sft_packing", "sft_dropped", "sft_turns"),
)
def data_flags(plan: Plan) -> Flags:
    """Where the samples come from."""
    workers = plan.variables.num_workers
    if workers is None:
        workers = 2 if plan.device == "cuda" else 0
    if plan.variables.split and not plan.config.sft:
        shares = plan.variables.split if plan.variables.split.count(",") == 2 else f"{plan.variables.split},0"
        flags = ["--data-path", *blend_words(plan.train_data, sft=plan.config.sft), "--split", shares]
    else:
        flags = ["--train-data-path", *blend_words(plan.train_data, sft=plan.config.sft)]
        flags += ["--valid-data-path", *blend_words(plan.valid_data, sft=plan.config.sft)] if plan.valid_data else []
    flags += ["--data-cache-path", f"{plan.output}/{CACHE}", "--num-workers", str(workers)]
    flags += ["--no-create-attention-mask-in-dataloader"]  # causal is what the kernels do anyway
    if plan.config.sft:
        flags += ["--sft-data", plan.variables.dataset_type]
        flags += ["--sft-split", plan.variables.split] if plan.variables.split else []
        flags += passed(plan, "sft_loss", "sft_average", "sft_overlong", "sft_max_lost")
        flags += ["--calculate-per-token-loss"]  # else each micro batch weighs the same, however few its labels
        flags += passed(plan, "sft_packing", "sft_dropped", "sft_turns")
        flags += ["--trained-logits", str(LOGIT_ROWS)] if trained_logits(plan) else []
    return flags


def trained_logits(plan: Plan) -> bool:
    """Whether logits are computed at trained positions only: other sums of the same terms, so not on the CPU."""
    wanted = plan.variables.sft_logits
    if wanted == "auto":
        deferred = "--defer-embedding-wgrad-compute" in (plan.variables.megatron_args or "")
        return plan.config.sft and plan.device == "cuda" and not deferred
    return plan.config.sft and wanted == "trained"


def blend_words(corpora: tuple[DataSource, ...], *, sft: bool) -> list[str]:
    """Weights and paths. Text without weights is weighted by its tokens: Megatron 0.19.2 reads a blend without weights
    once, and ends with StopIteration where training or validation wants more."""
    words = []
    for corpus in corpora:
        weight = corpus.weight
        if weight is None and len(corpora) > 1 and not sft and corpus.tokens:
            weight = float(corpus.tokens)
        words += [corpus.path] if weight is None else [repr(weight), corpus.path]
    return words


@emits("--eval-interval --eval-iters")
def validation_flags(plan: Plan) -> Flags:
    """How often, and how much; the last validation is after the last iteration."""
    return ["--eval-interval", str(plan.schedule.eval_interval), "--eval-iters", str(plan.schedule.eval_iters)]


@emits(
    "--background-save --ckpt-format --ckpt-step --finetune --load --load-main-params-from-ckpt --no-load-optim "
    "--no-load-rng --no-save-optim --override-opt-param-scheduler --save --save-interval",
    passes=("keep_checkpoints", "keep_best", "early_stop_patience", "on_spike", "spike_factor", "spike_window"),
)
def checkpoint_flags(plan: Plan) -> Flags:
    """Saving, and what is loaded: the newest checkpoint of this run, else the weights it starts from."""
    flags = ["--ckpt-format", "torch_dist", "--save", plan.checkpoints]
    flags += ["--save-interval", str(plan.schedule.save_interval)]
    flags += ["--background-save"] if plan.background_save else []
    flags += [] if plan.variables.save_optimizer else ["--no-save-optim"]
    flags += passed(plan, "keep_checkpoints", "keep_best", "early_stop_patience")
    flags += passed(plan, "on_spike", "spike_factor", "spike_window")
    if plan.resume_iteration is not None:
        # The scheduler's values are this start's: what a checkpoint forbids to change was refused before.
        flags += ["--load", plan.checkpoints, "--ckpt-step", str(plan.resume_iteration)]
        return [*flags, "--override-opt-param-scheduler"]
    if plan.weights.kind == "mcore" and plan.variables.lora_rank is None:
        flags += ["--load", plan.weights.path, "--finetune", "--no-load-optim", "--no-load-rng"]
        if plan.config.pr == "fp8" and gathers_fp8(plan):  # else the fp32 copies are made from the fp8 weights
            flags += ["--load-main-params-from-ckpt"]
        flags += ["--ckpt-step", str(plan.weights.step)] if plan.weights.step else []
    return flags


@emits("--tensorboard-dir --wandb-entity --wandb-exp-name --wandb-project --wandb-save-dir", passes=("log_interval",))
def logging_flags(plan: Plan) -> Flags:
    """Progress, TensorBoard, Weights & Biases."""
    variables = plan.variables
    flags = passed(plan, "log_interval")
    if variables.loggers is None or "tensorboard" in variables.loggers.split(","):
        flags += ["--tensorboard-dir", f"{plan.output}/{TENSORBOARD}"]
    if plan.wandb:
        flags += ["--wandb-project", variables.wandb_project or "megatron-patch"]
        flags += ["--wandb-exp-name", variables.wandb_name or plan.output.rsplit("/", 1)[-1]]
        flags += ["--wandb-save-dir", plan.output]  # it makes its folder wandb/ there
        flags += ["--wandb-entity", variables.wandb_entity] if variables.wandb_entity else []
    return flags


@emits()
def variable_flags(plan: Plan) -> Flags:
    """Variables that no group above passes on, in the order of their table."""
    placed = {name for group in GROUPS for name in group.passes}
    return passed(plan, *(row.field for row in VARIABLES if row.flag and row.field not in placed))


@emits()
def extra_flags(plan: Plan) -> Flags:
    """MP_MEGATRON_ARGS, last."""
    return shlex.split(plan.variables.megatron_args) if plan.variables.megatron_args else []


GROUPS: tuple[FlagBuilder, ...] = (
    own_flags,
    model_flags,
    tokenizer_flags,
    parallel_flags,
    batch_flags,
    optimizer_flags,
    precision_flags,
    kernel_flags,
    recompute_flags,
    data_flags,
    validation_flags,
    checkpoint_flags,
    logging_flags,
    variable_flags,
    extra_flags,
)


FIXED = frozenset(
    """
    --async-save --encoder-num-layers --encoder-seq-length --exit-on-missing-checkpoint --lr-warmup-fraction
    --make-vocab-size-divisible-by --mock-data --no-save-rng --rampup-batch-size --skip-train
    --test-data-path --use-checkpoint-args --vocab-size
    """.split()  # noqa: SIM905
)
"""Flags that no plan gives and that would turn a plan into something else."""

EMITTED = frozenset[str]().union(*(group.flags for group in GROUPS), (row.flag for row in VARIABLES if row.flag))
"""Every flag that some plan gives."""
