"""Questions are found, unpacked and verified; every way in which they can be wrong is named."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import datasets
import pytest

from megatron_patch.evaluation import cards, data, synthetic
from megatron_patch.evaluation.archives import ArchiveError, unpack
from megatron_patch.evaluation.benchmarks import BENCHMARKS, CEVAL, CMMLU
from megatron_patch.evaluation.data import QuestionsError, find, find_all, verify
from megatron_patch.evaluation.install_data import put_in_place

from .conftest import HARNESS

ALL = list(BENCHMARKS.values())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_subjects_and_questions_add_up_to_the_published_totals() -> None:
    assert len(CMMLU.subjects) == 67
    assert sum(subject.rows["test"] for subject in CMMLU.subjects) == 11582
    assert len(CEVAL.subjects) == 52
    assert sum(subject.rows["val"] for subject in CEVAL.subjects) == 1346
    assert sum(subject.rows["test"] for subject in CEVAL.subjects) == 12342


def test_synthetic_sets_are_complete_and_always_the_same(tmp_path: Path, questions: Path) -> None:
    synthetic.make(tmp_path, 2)
    assert snapshot(tmp_path) == snapshot(questions)
    found = find_all(ALL, [questions])
    assert {name: len(one.questions) for name, one in found.items()} == {"cmmlu": 67, "ceval-valid": 52}
    assert all("invented questions" in str(one.describe()) for one in found.values())
    assert (questions / "ceval/test/law_test.csv").read_text(encoding="utf-8").startswith("id,question,A,B,C,D\n")


def test_published_row_counts_are_recognized(tmp_path: Path) -> None:
    synthetic.make(tmp_path, None)
    for one in find_all(ALL, [tmp_path]).values():
        assert list(map(str, one.notes)) == ["invented questions"]
        (one.folder / synthetic.MARKER).unlink()
        assert "published row counts" in str(verify(one.benchmark, one.folder).describe())


def test_values_stay_as_they_are_written(questions: Path) -> None:
    options = [
        tuple(row[letter] for letter in "ABCD")
        for one in find_all(ALL, [questions]).values()
        for splits in one.questions.values()
        for row in (*splits["dev"], *splits[one.benchmark.scored_split])
    ]
    assert {("None", "NA", "null", "0"), ("1.50", "007", "-3", "1e5"), ("甲,乙", '"甲"', "A", " 丙 ")} <= set(options)


@pytest.mark.parametrize("below", ["", "data", "formal_ceval/deep"])
def test_found_at_any_depth(tmp_path: Path, questions: Path, below: str) -> None:
    shutil.copytree(questions / "ceval", tmp_path / "x" / below, dirs_exist_ok=True)
    assert find(CEVAL, [tmp_path]) == tmp_path / "x" / below if below else tmp_path / "x"


@pytest.mark.parametrize("ending", ["tgz", "tar", "zip"])
def test_archives_are_unpacked_once(
    tmp_path: Path, questions: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place, cache = tmp_path / "place", tmp_path / "cache"
    kind = {"tgz": "gztar", "tar": "tar", "zip": "zip"}[ending]
    for name in ("cmmlu", "ceval"):
        made = shutil.make_archive(str(place / name), kind, questions, name)
        Path(made).rename(place / f"{name}.{ending}")
    first = find_all(ALL, [place], cache)
    assert capsys.readouterr().out.count("no published checksum") == 2
    again = find_all(ALL, [place / f"ceval.{ending}", place / f"cmmlu.{ending}"], cache)
    assert capsys.readouterr().out == ""
    assert {name: one.fingerprint for name, one in first.items()} == {n: one.fingerprint for n, one in again.items()}
    assert not list(cache.glob("unpacked/.partial-*"))


def test_questions_beside_the_checkout_are_found(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Pai-Megatron-Patch's tutorial: unpacked beside the checkout, which holds LM-Evaluation-Harness."""
    monkeypatch.setattr(data, "HARNESS", tmp_path / "workspace/Pai-Megatron-Patch/LM-Evaluation-Harness")
    shutil.copytree(questions / "cmmlu", tmp_path / "workspace/cmmlu")
    monkeypatch.chdir(tmp_path)
    assert find(CMMLU, []) == tmp_path / "workspace/cmmlu"
    with pytest.raises(QuestionsError, match="says where to get the data"):
        find(CEVAL, [])


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_everything_wrong_is_named_at_once(tmp_path: Path, questions: Path) -> None:
    folder = tmp_path / "cmmlu"
    shutil.copytree(questions / "cmmlu", folder)
    (folder / "dev/anatomy.csv").unlink()
    edit(folder / "test/arts.csv", "Answer", "Solution")
    (folder / "test/astronomy.csv").write_bytes("，题".encode("gbk"))
    (folder / "dev/economics.csv").write_text(",Question,A,B,C,D,Answer\n")
    (folder / "dev/genetics.csv").write_text(",Question,A,B,C,D,Answer\n0,q,a,b,c,d,E\n1,q,a,b\n")
    with pytest.raises(QuestionsError) as caught:
        find_all(ALL, [tmp_path])
    for expected in (
        "dev/anatomy.csv is missing",
        "test/arts.csv has no column Answer",
        "test/astronomy.csv is not CSV in UTF-8",
        "dev/economics.csv has no rows",
        "dev/genetics.csv, line 2: answer is 'E', wanted A, B, C or D",
        "and 1 more like these",
        "C-Eval (validation): no val/SUBJECT_val.csv",
    ):
        assert any(expected in problem for problem in caught.value.problems), expected


def test_a_byte_order_mark_is_not_part_of_a_column(tmp_path: Path, questions: Path) -> None:
    shutil.copytree(questions / "ceval", tmp_path / "ceval")
    file = tmp_path / "ceval/val/law_val.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert verify(CEVAL, tmp_path / "ceval").questions == verify(CEVAL, questions / "ceval").questions


def test_a_torn_or_climbing_archive_is_refused_by_name(tmp_path: Path) -> None:
    torn, evil, text = tmp_path / "cmmlu.tgz", tmp_path / "evil.tar", tmp_path / "cmmlu.txt"
    torn.write_bytes(b"\x1f\x8b not gzip")
    text.write_text("")
    with tarfile.open(evil, "w") as archive:
        member = tarfile.TarInfo("../outside.csv")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    for file in (torn, evil, text):
        with pytest.raises(ArchiveError, match=str(file)):
            unpack(file, tmp_path / "below")
    assert not (tmp_path / "outside.csv").exists()
    assert not list(tmp_path.glob("below/*"))


@pytest.mark.parametrize(
    "kind", ["link", "hard link", "device", "absolute", "climbing", "zip link", "zip climbing", "zip"]
)
def test_archives_that_reach_outside(tmp_path: Path, kind: str) -> None:
    """Nothing of them is unpacked (CVE-2025-4517 went around tarfile's own filter)."""
    archive, name = tmp_path / ("a.zip" if "zip" in kind else "a.tar"), "inner/a.csv"
    name = {"absolute": str(tmp_path / "outside"), "climbing": "a/../../outside", "zip climbing": "../outside"}.get(
        kind, name
    )
    if "zip" in kind:
        with zipfile.ZipFile(archive, "w") as zipped:
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if kind == "zip link" else 0o100644) << 16
            zipped.writestr(info, "x")
    else:
        member = tarfile.TarInfo(name)
        types = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
        member.type, member.linkname = types.get(kind, tarfile.REGTYPE), "/etc/passwd"
        with tarfile.open(archive, "w") as tar:
            tar.addfile(member)
    if kind == "zip":
        assert (unpack(archive, tmp_path / "below") / name).read_text() == "x"
        return
    with pytest.raises(ArchiveError, match=r"is a link or a device|points outside"):
        unpack(archive, tmp_path / "below")
    assert not (tmp_path / "outside").exists()
    assert not list(tmp_path.glob("below/*"))


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_patch.evaluation.archives._LIMIT", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "0" * 5000)
    with pytest.raises(ArchiveError, match="holds more than"):
        unpack(tmp_path / "a.zip", tmp_path / "below")


def test_links_for_the_unmodified_lm_eval(tmp_path: Path, questions: Path) -> None:
    one = find_all([CMMLU], [questions])["cmmlu"]
    shutil.copytree(questions / "cmmlu/test", tmp_path / CMMLU.hub_path / "test")
    said = put_in_place(one, tmp_path)
    assert (tmp_path / CMMLU.hub_path / "dev").resolve() == questions / "cmmlu/dev"
    assert any("NOT replaced" in str(line) for line in said), "somebody's own copy was overwritten"
    assert put_in_place(one, tmp_path) == said


def test_datasets_reads_what_was_put_in_place_last(
    tmp_path: Path, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps what it once read under a name that does not depend on the files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    place = tmp_path / CMMLU.hub_path
    place.mkdir(parents=True)
    shutil.copy(HARNESS / CMMLU.hub_path / "README.md", place)
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    for count in (2, 1):
        synthetic.make(tmp_path / f"of {count}", count)
        put_in_place(find_all([CMMLU], [tmp_path / f"of {count}"])["cmmlu"], tmp_path)
        assert len(datasets.load_dataset(CMMLU.hub_path, "anatomy")["test"]) == count


@pytest.mark.parametrize("benchmark", ALL, ids=lambda benchmark: benchmark.name)
def test_dataset_cards_are_as_their_maker_makes_them(benchmark) -> None:
    assert (HARNESS / benchmark.hub_path / "README.md").read_text(encoding="utf-8") == cards.card(benchmark)
