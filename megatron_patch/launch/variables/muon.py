"""Which optimizer, and Muon's own values."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.values import choice, real, switch, whole
from megatron_patch.launch.variables.row import row

UNDER_MUON = ("MP_OPTIMIZER", "muon")


@dataclass(frozen=True, kw_only=True)
class MuonVariables:
    """Rows of the table of MP_* variables; None leaves the choice to the plan, which says what it took."""

    optimizer: str = row(
        "adam",
        choice("adam", "muon"),
        "adam = AdamW; muon = Muon for the matrices of the layers, AdamW for embeddings, LM head, norms and biases "
        "(needs emerging-optimizers, and DO=false)",
        "adam = AdamW；muon = 各层的矩阵用 Muon，embedding、LM head、norm 和偏置用 AdamW"
        "（需要 emerging-optimizers，且 DO=false）",
        flag="--optimizer",
        always=True,
    )
    muon_momentum: float = row(
        0.95,
        real(0, 0.99999),
        "Muon's momentum",
        "Muon 的动量",
        flag="--muon-momentum",
        always=True,
        matters=UNDER_MUON,
    )
    muon_nesterov: bool = row(
        True,
        switch(),
        "Muon: Nesterov's form of the momentum",
        "Muon：Nesterov 形式的动量",
        flag="--muon-nesterov",
        always=True,
        matters=UNDER_MUON,
    )
    muon_scale: float = row(
        0.2,
        real(above=True),
        "Muon: the update is multiplied with it, beside MP_MUON_SCALE_MODE; 0.2 with spectral moves weights about as "
        "far as AdamW, so LR is the same for both",
        "Muon：更新乘以此值（另见 MP_MUON_SCALE_MODE）；spectral 时 0.2 的更新幅度与 AdamW 相近，LR 可共用",
        flag="--muon-extra-scale-factor",
        always=True,
        matters=UNDER_MUON,
    )
    muon_scale_mode: str = row(
        "spectral",
        choice("spectral", "unit_rms_norm", "shape_scaling"),
        "Muon: scale by a matrix's sides: root of the longer, root of rows / columns, or that and at least 1",
        "Muon：按矩阵边长缩放：较长边的平方根，行/列的平方根，或后者且至少为 1",
        flag="--muon-scale-mode",
        always=True,
        matters=UNDER_MUON,
    )
    muon_steps: int = row(
        5,
        whole(1, 20),
        "Muon: Newton-Schulz steps",
        "Muon：Newton-Schulz 步数",
        flag="--muon-num-ns-steps",
        always=True,
        matters=UNDER_MUON,
    )
    muon_tp: str = row(
        "duplicated",
        choice("duplicated", "distributed", "blockwise"),
        "Muon, TP > 1: gather a matrix and orthogonalize it on each rank, do so together, or each rank its part alone, "
        "which is another optimizer at each TP",
        "Muon，TP > 1：收集整个矩阵后各自正交化，共同完成，或各 rank 只处理自己的部分（每个 TP 的结果不同）",
        flag="--muon-tp-mode",
        always=True,
        matters=UNDER_MUON,
    )
