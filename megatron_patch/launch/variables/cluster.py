"""Many machines: rendezvous, Slurm, Kubernetes."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.values import text, whole, words
from megatron_patch.launch.variables.row import row


@dataclass(frozen=True, kw_only=True)
class ClusterVariables:
    """Rows of the table of MP_* variables; None leaves the choice to the plan, which says what it took."""

    k8s_image: str | None = row(None, text("registry/name:tag"), "--emit k8s: container image", "--emit k8s：容器镜像")
    k8s_name: str | None = row(
        None,
        text("expect-dns-label"),
        "--emit k8s: name of the job; else the output folder's",
        "--emit k8s：任务的名称；默认为输出文件夹的名称",
    )
    k8s_project: str | None = row(
        None,
        text("expect-folder"),
        "--emit k8s: where this project lies in the image; else where it lies here",
        "--emit k8s：本项目在镜像中的位置；默认与此处相同",
    )
    k8s_volumes: str | None = row(
        None,
        words("expect-claims"),
        "--emit k8s: volume claims to mount, `CLAIM:/FOLDER CLAIM:/FOLDER`",
        "--emit k8s：要挂载的卷声明，`CLAIM:/FOLDER CLAIM:/FOLDER`",
    )
    master_port: int | None = row(
        None,
        whole(1, 65535),
        "ENV=dsw: port of the rendezvous; else a free one",
        "ENV=dsw：会合端口；默认为空闲端口",
    )
    node_timeout_seconds: int = row(
        60,
        whole(5),
        "several machines: one that is not heard of for so long is given up, and the run with it",
        "多台机器：一台机器失联这么久后即放弃，运行随之结束",
        matters=("ENV", "dlc", "slurm"),
    )
    rendezvous_timeout_seconds: int = row(
        600,
        whole(5),
        "several machines: how long they wait for each other before the first step",
        "多台机器：第一步之前互相等待多久",
        matters=("ENV", "dlc", "slurm"),
    )
    slurm_account: str | None = row(
        None, text("expect-name"), "ENV=slurm: account", "ENV=slurm：账户", matters=("ENV", "slurm")
    )
    slurm_args: str | None = row(
        None,
        words("expect-options"),
        "ENV=slurm: more options for sbatch, as in a shell",
        "ENV=slurm：传给 sbatch 的其他选项，写法同 shell",
        matters=("ENV", "slurm"),
    )
    slurm_gpus: int | None = row(
        None,
        whole(1, 4096),
        "ENV=slurm: GPUs of each node; else those that a node has",
        "ENV=slurm：每个节点的 GPU 数；默认为节点的全部 GPU",
        matters=("ENV", "slurm"),
    )
    slurm_image: str | None = row(
        None,
        text("expect-image"),
        "ENV=slurm: container image (needs Slurm's pyxis plug-in); else none",
        "ENV=slurm：容器镜像（需要 Slurm 的 pyxis 插件）；默认不用",
        matters=("ENV", "slurm"),
    )
    slurm_nodes: int | None = row(
        None, whole(1, 65536), "ENV=slurm: nodes; else 1", "ENV=slurm：节点数；默认 1", matters=("ENV", "slurm")
    )
    slurm_partition: str | None = row(
        None,
        text("expect-name"),
        "ENV=slurm: partition; else the cluster's default",
        "ENV=slurm：分区；默认为集群的默认分区",
        matters=("ENV", "slurm"),
    )
    slurm_signal_seconds: int = row(
        300,
        whole(10, 65535),
        "ENV=slurm: how long before the time limit the run saves and requeues itself",
        "ENV=slurm：在时限之前多久保存并重新排队",
        matters=("ENV", "slurm"),
    )
    slurm_time: str | None = row(
        None,
        text("expect-time"),
        "ENV=slurm: time limit; else the partition's",
        "ENV=slurm：时限；默认为分区的时限",
        matters=("ENV", "slurm"),
    )
