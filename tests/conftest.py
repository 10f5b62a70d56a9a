"""Order: files that take minutes come first, so that no worker of `make test` is left alone with one at the end."""

from __future__ import annotations

import pytest

LONGEST = ("test_readme.py", "test_resume.py", "test_evaluate.py", "test_hf_parity.py", "test_check.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
