"""What models are called elsewhere."""

from __future__ import annotations

from megatron_patch.launch.command import REPOSITORY
from megatron_patch.models import size_names
from megatron_patch.nemo.model_names import CONFIGS, MODEL_CLASSES, RECIPES, size_of, size_of_hub_name

EXAMPLES = REPOSITORY / "examples" / "llama3_1"


def test_lists_of_models() -> None:
    bare = [name for name in size_names() if "-" not in name]
    configs = [*CONFIGS, *bare]
    assert (EXAMPLES / "supported_model.txt").read_text().split() == [*MODEL_CLASSES, *RECIPES, *bare]
    assert (EXAMPLES / "supported_config.txt").read_text().split() == configs
    assert {size_of(name) for name in configs} == {"tiny", "1B", "3B", "8B", "70B", "405B", "auto"}
    assert size_of_hub_name("meta-llama/Llama-3.1-8B-Instruct") == "8B"
    assert size_of_hub_name("meta-llama/Llama-3.2-1B") == "1B"
    assert size_of_hub_name("meta-llama/Meta-Llama-3-8B") is None
