"""A patch whose target is gone ends the run; versions that nobody looked at are refused."""

from __future__ import annotations

import types

import pytest

from megatron_patch.backend import patching
from megatron_patch.backend.patching import BackendError, check_versions, replace, wrap


def test_replace_returns_the_original() -> None:
    module = types.SimpleNamespace(answer=41)
    assert replace(module, "answer", 42, why="a test") == 41
    assert module.answer == 42
    assert patching.APPLIED[-1].endswith("answer: a test")


def test_replace_refuses_a_name_that_is_gone() -> None:
    with pytest.raises(BackendError, match=r"cannot patch .*renamed: it does not exist any more \(0.19.2 does so\)"):
        replace(types.SimpleNamespace(), "renamed", None, why="0.19.2 does so")


def test_wrap_hands_over_the_original() -> None:
    module = types.SimpleNamespace(double=lambda x: 2 * x)

    @wrap(module, "double", why="a test")
    def double(original, x):
        return original(x) + 1

    assert module.double(5) == 11


def test_versions_of_this_environment_are_the_pinned_ones() -> None:
    check_versions()


@pytest.mark.parametrize(("package", "wanted"), [("torch", "2.10.0"), ("no-such-package", "1.0")])
def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch, package: str, wanted: str) -> None:
    monkeypatch.setitem(patching.PINNED_VERSIONS, package, wanted)
    with pytest.raises(BackendError, match=f"install {package}=={wanted}"):
        check_versions()
