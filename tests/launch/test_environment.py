"""The cluster's variables, and DRY_RUN."""

from __future__ import annotations

from megatron_patch.launch.cluster.place import Cluster, read_cluster
from megatron_patch.launch.environment import read_environment


def test_a_cluster_is_read_and_each_missing_variable_is_a_problem() -> None:
    environ = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "head", "MASTER_PORT": "29500"}
    cluster, problems = read_cluster({**environ, "KUBERNETES_CONTAINER_RESOURCE_GPU": "8"}, nproc=None)
    assert not problems
    assert cluster == Cluster(nodes=4, node_rank=3, master_addr="head", master_port=29500, gpus_per_node=8)
    cluster, problems = read_cluster(environ, nproc=2)
    assert cluster is not None
    assert cluster.gpus_per_node is None
    assert len(read_cluster({}, nproc=None)[1]) == 5


def test_dry_run_variable() -> None:
    for value, expected in (("1", True), ("true", True), ("TRUE", True), ("0", False), ("", False), ("false", False)):
        environment, problems = read_environment({"DRY_RUN": value}, device="cpu")
        assert (environment.dry_run, problems) == (expected, [])
