"""`exact` gives lm_eval's floats, `shared` its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_patch.evaluation.benchmarks import BENCHMARKS
from megatron_patch.evaluation.data import find_all
from megatron_patch.evaluation.prefix import group_by_prefix
from megatron_patch.evaluation.scoring import FastHFLM, contexts_of
from megatron_patch.evaluation.tasks import local_questions, task_manager
from megatron_patch.models import families

from .conftest import make_model

TASKS = ["cmmlu_agronomy", "cmmlu_world_history", "cmmlu_virology", "ceval-valid_law", "ceval-valid_logic"]


def instance(context: str, continuation: str, task: str = "t") -> Instance:
    return Instance(
        request_type="loglikelihood", doc={}, arguments=(context, continuation), idx=0, metadata=(task, 0, 1)
    )


@pytest.fixture(scope="module")
def requests(questions: Path) -> dict[int, list[Instance]]:
    """Choices of five subjects, without and with examples, and some that these tasks never have."""
    odd = [
        instance("答案：", " 系统"),  # several tokens
        instance("答案：", " 系统数据模型"),
        instance("答案： ", "A"),  # white space goes to the continuation
        instance("<|begin_of_text|>答案：", " A"),  # brings its own BOS
        instance("一个很长的问题" * 60, " A"),  # cut from the left
        instance("答案：", " A", "another task"),  # the same context elsewhere
    ]
    found: dict[int, list[Instance]] = {}
    with local_questions(list(find_all(list(BENCHMARKS.values()), [questions]).values())):
        for shots in (0, 2):
            tasks = task_manager().load(TASKS)["tasks"]
            for task in tasks.values():
                task.set_config(key="num_fewshot", value=shots)
                task.set_fewshot_seed(seed=1234)
                task.build_all_requests(rank=0, world_size=1)
            found[shots] = [one for task in tasks.values() for one in task.instances] + odd
    return found


def scores(model: Path, requests: list[Instance], scoring: str, **more) -> list[tuple[float, bool]]:
    options = {"batch_size": 4, "max_length": 700, **more}
    lm = FastHFLM(pretrained=str(model), device="cpu", scoring=scoring, tokens_per_batch=600, **options)
    return lm.loglikelihood(requests, disable_tqdm=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shots", [0, 2])
def test_exact_gives_the_same_floats(model: Path, requests: dict[int, list[Instance]], dtype: str, shots: int) -> None:
    plain = scores(model, requests[shots], "plain", dtype=dtype)
    assert len({score for score, _ in plain}) > len(plain) // 3, "the model answers everything alike"
    assert scores(model, requests[shots], "exact", dtype=dtype) == plain


class Reads(TorchDispatchMode):
    """How often the processor asks for a value: on a GPU it waits for all that is under way."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_exact_waits_for_nothing_between_batches(model: Path, requests: dict[int, list[Instance]]) -> None:
    """As many values are asked for of several batches as of one: those of the answers, at the end."""
    lm = FastHFLM(pretrained=str(model), device="cpu", scoring="exact", batch_size=4)
    counts = []
    for size in (64, 4):
        lm.batch_size_per_gpu = size
        with Reads() as reads:
            lm.loglikelihood(requests[0], disable_tqdm=True)
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


def test_exact_follows_the_softmax_precision(model: Path, requests: dict[int, list[Instance]]) -> None:
    options = {"dtype": "bfloat16", "softmax_dtype": "float32"}
    plain = scores(model, requests[0], "plain", **options)
    assert scores(model, requests[0], "exact", **options) == plain
    assert plain != scores(model, requests[0], "plain", dtype="bfloat16")


@pytest.mark.parametrize("shots", [0, 2])
def test_shared_gives_the_same_answers(model: Path, requests: dict[int, list[Instance]], shots: int) -> None:
    plain = scores(model, requests[shots], "plain", dtype="float32")
    shared = scores(model, requests[shots], "shared", dtype="float32")
    torch.testing.assert_close(
        torch.tensor([score for score, _ in shared]), torch.tensor([score for score, _ in plain]), atol=2e-5, rtol=0
    )
    assert [greedy for _, greedy in shared] == [greedy for _, greedy in plain]


OTHERS = [name for name, family in families().items() if not family.bare_names and "tiny" in family.sizes]


@pytest.mark.parametrize("family", OTHERS)
def test_other_families(family: str, tokenizer: Path, requests: dict[int, list[Instance]], tmp_path: Path) -> None:
    """`exact` and `shared`, without examples and with two."""
    model = make_model(tmp_path / family, tokenizer, 1, family)
    for shots, most in ((0, 24), (2, 16)):
        asked = requests[shots][:most]
        plain, exact, shared = (scores(model, asked, way, dtype="float32") for way in ("plain", "exact", "shared"))
        assert exact == plain
        assert max(abs(a - b) for (a, _), (b, _) in zip(plain, shared, strict=True)) < 2e-5
        assert plain != shared, "shared was not used"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_shared_suits_every_attention(model: Path, requests: dict[int, list[Instance]], attention: str) -> None:
    plain = scores(model, requests[0][:24], "plain", attn_implementation=attention)
    shared = scores(model, requests[0][:24], "shared", attn_implementation=attention)
    assert max(abs(a - b) for (a, _), (b, _) in zip(plain, shared, strict=True)) < 2e-5


def test_shared_runs_a_beginning_once(model: Path) -> None:
    """A long common beginning and twenty short questions."""
    beginning = "以下是关于农学的单项选择题，请直接给出正确答案的选项。" * 4
    prompts = [instance(f"{beginning}第{number}题答案：", choice) for number in range(20) for choice in (" A", " B")]
    read = {}
    for scoring in ("exact", "shared"):
        lm = FastHFLM(pretrained=str(model), device="cpu", batch_size=4, scoring=scoring, tokens_per_batch=600)
        counts: list[int] = []
        lm.model.model.embed_tokens.register_forward_pre_hook(lambda _, args, c=counts: c.append(args[0].numel()))
        lm.loglikelihood(prompts, disable_tqdm=True)
        read[scoring] = sum(counts)
    assert read["shared"] < 0.2 * read["exact"]


def test_prefix_never_reaches_what_is_scored() -> None:
    contexts = contexts_of([(("", ""), [1, 2], [3, 4, 5]), (("", ""), [1, 2], [3, 4, 6])], 100)
    assert [len(context.choices) for context in contexts] == [2]
    assert group_by_prefix(contexts, ["t", "t"])[0].prefix == [1]


def test_what_cannot_be_faster_says_so(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = FastHFLM(pretrained=str(model), device="cpu", batch_size="auto", scoring="exact")
    assert lm.scoring == "plain"
    assert "plain is used" in capsys.readouterr().out
    loaded = lm.model
    for key, value, said in (
        ("sliding_window", 64, "shared knows no sliding window, 64 here"),
        ("model_type", "phi3", "shared is for llama, "),
    ):
        setattr(loaded.config, key, value)
        lm = FastHFLM(pretrained=loaded, tokenizer=str(model), backend="causal", scoring="shared")
        assert lm.scoring == "exact"
        assert said in capsys.readouterr().out


def test_too_long_contexts_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    contexts = contexts_of([(("", ""), list(range(50)), [1]), (("", ""), [3], [1])], 10)
    assert [len(context.tokens) for context in contexts] == [10, 1]
    assert contexts[0].tokens == list(range(40, 50))
    assert "1 of 2 contexts exceed the model's 10 tokens" in capsys.readouterr().out
