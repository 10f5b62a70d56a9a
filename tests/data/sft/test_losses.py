"""Packed = unpacked = Hugging Face, on the loss of any conversation, under the template of each family."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ...trainer.chat_templates import CHATS
from .conftest import MARKED
from .losses import check, conversations, tiny_llama

World = tuple[Any, Any, Path, str]


@pytest.fixture(
    scope="module",
    params=[
        "llama3_1",
        "mistral",
        *(pytest.param(name, marks=pytest.mark.slow) for name in CHATS if name != "mistral"),
    ],
)
def world(request: pytest.FixtureRequest, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A model, Hugging Face's tokenizer, its folder, and the template with blocks around what the assistant writes."""
    folder = tmp_path_factory.mktemp("losses") / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    if request.param in CHATS:
        CHATS[request.param].give_to(folder)
    marked = CHATS[request.param].template if request.param in CHATS else MARKED
    theirs = AutoTokenizer.from_pretrained(folder)
    return tiny_llama(len(theirs)), theirs, folder, marked


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(records=st.lists(conversations(), min_size=1, max_size=4))
def test_packed_unpacked_and_hugging_face(records: list[Any], world: World, tmp_path: Path) -> None:
    model, theirs, folder, marked = world
    check(model, theirs, folder, marked, records, tmp_path)
