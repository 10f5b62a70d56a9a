"""Optimizer, loss, first weights."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.values import choice, real, whole
from megatron_patch.launch.variables.row import row


@dataclass(frozen=True, kw_only=True)
class OptimizerVariables:
    """Rows of the table of MP_* variables; None leaves the choice to the plan, which says what it took."""

    adam_beta1: float = row(
        0.9,
        real(0, 0.99999),
        "Adam's decay of the first moment",
        "Adam 一阶矩的衰减系数",
        flag="--adam-beta1",
        always=True,
    )
    adam_beta2: float = row(
        0.95,
        real(0, 0.99999),
        "Adam's decay of the second moment",
        "Adam 二阶矩的衰减系数",
        flag="--adam-beta2",
        always=True,
    )
    adam_eps: float = row(1e-8, real(above=True), "Adam's epsilon", "Adam 的 epsilon", flag="--adam-eps")
    clip_grad: float = row(
        1.0,
        real(),
        "largest norm of the gradient; 0 does not clip",
        "梯度范数的上限；0 = 不裁剪",
        flag="--clip-grad",
        always=True,
    )
    grad_reduce: str = row(
        "auto",
        choice("auto", "fp32", "bf16"),
        "precision that gradients are summed in; auto = bf16 on GPUs up to 16 micro batches an iteration, else fp32",
        "梯度求和的精度；auto = GPU 上每次迭代不超过 16 个微批次时用 bf16，否则 fp32",
    )
    init_std: float | None = row(
        None,
        real(above=True),
        "standard deviation of new weights; else the model's own",
        "新权重的标准差；默认为模型自己的值",
    )
    moments: str = row(
        "auto",
        choice("auto", "fp32", "bf16"),
        "precision of Adam's moments; auto = fp32, bf16 on GPUs where that alone makes the run fit",
        "Adam 两个矩的精度；auto = fp32，在 GPU 上只有 bf16 才放得下时用 bf16",
    )
    optimizer_offload_fraction: float = row(
        1.0,
        real(0, 1, above=True),
        "OPTIMIZER_OFFLOAD=static: part of the optimizer's state that moves",
        "OPTIMIZER_OFFLOAD=static：移走的优化器状态所占的比例",
        matters=("OPTIMIZER_OFFLOAD", "static"),
    )
    seed: int = row(
        1234,
        whole(0, 2**31 - 1),
        "seed of weights and of the order of the data",
        "权重与数据顺序的随机种子",
        flag="--seed",
        always=True,
    )
    weight_decay: float = row(
        0.1,
        real(),
        "weight decay, norms left out",
        "权重衰减，不作用于 norm 层",
        flag="--weight-decay",
        always=True,
    )
    z_loss: float = row(
        0.0,
        real(),
        "weight of the z-loss, the mean square of log(sum(exp(logits))); 0 = none, PaLM took 1e-4",
        "z-loss 的权重，即 log(sum(exp(logits))) 的均方；0 = 不用，PaLM 用 1e-4",
        flag="--z-loss",
    )
