"""Many machines: Slurm, Kubernetes, dlc."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "dlc-variable-missing": "ENV=dlc needs it",
    "dlc-gpus-missing": "ENV=dlc needs it, or MP_NPROC: processes of each machine",
    "dlc-rank": ("no such machine: RANK counts from 0", "0 to {last}"),
    "srun-variable": ("srun sets it for every step", "a number"),
    "srun-tasks": (
        "{tasks:task|tasks} on {nodes:node|nodes}; each starts all ranks",
        "srun --ntasks-per-node=1",
    ),
    "slurm-not-installed": "{command} is not installed here: is this a machine of the Slurm cluster?",
    "slurm-no-answer": "{command} did not answer within {seconds} s: Slurm's controller is down",
    "slurm-says": "{command}: {said}",
    "expect-first-node": "the address of the job's first node",
    "expect-other-env": "a machine of the cluster; or --dry-run to see the script",
    "slurm-path": ("no #SBATCH line can hold it", 'a value without " \\ or control characters'),
    "slurm-args-form": ("cannot be split: {error}", "options as in a shell"),
    "slurm-mount": ("{folder} cannot be mounted in a container", "paths without : and ,"),
    "slurm-no-pyxis": ("srun has no --container-image here: the pyxis plug-in is not installed", "none"),
    "k8s-env": ("--emit k8s writes a job of ENV=dlc", "dlc"),
    "k8s-image": ("a pod needs an image", "registry/name:tag"),
    "k8s-name": (
        'the job\'s name "{name}" is not a DNS label: a-z, 0-9 and -, beginning with a letter, 63 at most',
        "such as llama31-8b",
    ),
    "k8s-volume": ('"{word}" is not a claim and a folder', "CLAIM:/FOLDER"),
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "dlc-variable-missing": "ENV=dlc 需要它",
    "dlc-gpus-missing": "ENV=dlc 需要它，或 MP_NPROC：每台机器的进程数",
    "dlc-rank": ("没有这台机器：RANK 从 0 开始", "0 到 {last}"),
    "srun-variable": ("srun 为每个作业步都会设置它", "一个数"),
    "srun-tasks": (
        "{nodes} 个节点上有 {tasks} 个任务；每个任务都会启动全部进程",
        "srun --ntasks-per-node=1",
    ),
    "slurm-not-installed": "这里没有安装 {command}：这是 Slurm 集群的机器吗？",
    "slurm-no-answer": "{command} 在 {seconds} 秒内没有回答：Slurm 的控制器没有运行",
    "slurm-says": "{command}：{said}",
    "expect-first-node": "作业第一个节点的地址",
    "expect-other-env": "集群的一台机器；或用 --dry-run 查看脚本",
    "slurm-path": ("#SBATCH 行写不了它", '不含 " \\ 和控制字符的值'),
    "slurm-args-form": ("无法拆分：{error}", "像在 shell 里那样写的选项"),
    "slurm-mount": ("{folder} 无法挂载到容器里", "不含 : 和 , 的路径"),
    "slurm-no-pyxis": ("这里的 srun 没有 --container-image：没有安装 pyxis 插件", "none"),
    "k8s-env": ("--emit k8s 写的是 ENV=dlc 的作业", "dlc"),
    "k8s-image": ("pod 需要镜像", "registry/name:tag"),
    "k8s-name": (
        '作业名 "{name}" 不是 DNS 标签：只能用 a-z、0-9 和 -，以字母开头，最多 63 个字符',
        "例如 llama31-8b",
    ),
    "k8s-volume": ('"{word}" 不是“声明:文件夹”的形式', "CLAIM:/FOLDER"),
}
