"""One list of texts, in every form that a corpus may have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import zstandard

TEXTS = [f"document {i} " + "ünï 北京 text\n" * (i % 23) for i in range(400)]


def json_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)).encode()


def write_parquet(path: Path, texts: list[str | None], group: int = 64) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"n": list(range(len(texts))), "text": pyarrow.array(texts, pyarrow.string())})
    pyarrow.parquet.write_table(table, path, row_group_size=group)


def write_mixed(source: Path) -> None:
    """Five files of all forms, in the order of TEXTS."""
    (source / "e").mkdir(parents=True)
    (source / "a.jsonl").write_bytes(json_lines(TEXTS[:100]).rstrip(b"\n"))  # no line end at the end
    (source / "b.json").write_bytes(json_lines(TEXTS[100:150]))
    (source / "c.jsonl.gz").write_bytes(gzip.compress(json_lines(TEXTS[150:250])))
    (source / "d.jsonl.zst").write_bytes(zstandard.compress(json_lines(TEXTS[250:300])))
    write_parquet(source / "e" / "f.parquet", list(TEXTS[300:]))
    (source / "notes.txt").write_text("not data")
