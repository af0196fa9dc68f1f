"""A bundle as it was made is sound; whatever is changed in it is found."""

import json
import shutil
import stat
import zipfile

import pytest

from orchestrator.cli import errors
from orchestrator.serving.bundle.archive import BundleError, opened, write_archive
from orchestrator.serving.bundle.verify import verify
from tests.orchestrator.serving.conftest import call


@pytest.fixture(scope="module")
def made(chosen, tmp_path_factory):
    file = tmp_path_factory.mktemp("bundle") / "it.zip"
    done = call("bundle", "picked@champion", "--to", file, "--storage", chosen.storage)
    assert done.exit_code == 0, done.output
    return file


def contents(file):
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def changed(made, target, **changes):
    """The bundle with other members, and a manifest that is right about them."""
    files = contents(made)
    manifest = json.loads(files.pop("manifest.json"))
    facts = {k: v for k, v in manifest.items() if k not in {"files", "schema"}}
    facts |= changes.pop("facts", {})
    for name, change in changes.pop("files", {}).items():
        files[name] = change(files[name])
    write_archive(target, files, facts)
    return target


def wrong(file):
    return {check.what: check.wrong for check in verify(file).checks if check.wrong}


def test_a_bundle_is_sound_alone_and_the_same_each_time(made, chosen, tmp_path):
    found = verify(made)
    assert found.sound, found.checks
    assert found.model == "picked@champion"
    files = contents(made)
    assert files["journal.jsonl"] == (chosen.sweep / "journal.jsonl").read_bytes()
    licences = json.loads(files["licences.json"])
    assert licences["base"]["licence"] == licences["mood"]["licence"] == "not stated"
    again = tmp_path / "again.zip"
    call("bundle", "picked@champion", "--to", again, "--storage", chosen.storage)
    assert again.read_bytes() == made.read_bytes()
    alone = tmp_path / "elsewhere" / "it.zip"
    alone.parent.mkdir()
    shutil.copyfile(made, alone)
    said = call("verify", alone)
    assert said.exit_code == 0, said.output
    assert found.manifest_sha256 in said.stdout
    assert json.loads(call("verify", alone, "--json").stdout)["sound"] is True


def test_an_adapter_before_the_last_task_is_bundled_as_what_it_is(made, chosen, tmp_path):
    champion = json.loads(contents(made)["manifest.json"])["trial"]
    file = tmp_path / "middle.zip"
    done = call("bundle", f"picked/{champion}@1", "--to", file, "--storage", chosen.storage)
    assert done.exit_code == 0, done.output
    assert verify(file).sound, verify(file).checks
    files = contents(file)
    manifest = json.loads(files["manifest.json"])
    assert (manifest["learnt"], manifest["champion"]) == (1, False)
    weights = "model/adapter/adapter_model.safetensors"
    assert files[weights] != contents(made)[weights]
    assert json.loads(files["model/card.json"])["learnt"] == 1


def test_a_champion_that_a_person_promoted_is_accounted_for(made, chosen, tmp_path):
    storage = tmp_path / "runs"
    shutil.copytree(chosen.storage, storage)
    first = json.loads(contents(made)["manifest.json"])["trial"]
    other = next(name for name in ("t001", "t002", "t003") if name != first)
    done = call("champion", "promote", f"picked/{other}", "--reason", "it is kinder", "--force",
                "--storage", storage)  # fmt: skip
    assert done.exit_code == 0, done.output
    promoted, verdicts = tmp_path / "promoted.zip", tmp_path / "verdicts.zip"
    call("bundle", "picked@champion", "--to", promoted, "--storage", storage)
    call("bundle", f"picked/{first}", "--to", verdicts, "--storage", storage)
    for file, trial, champion in ((promoted, other, True), (verdicts, first, False)):
        found = verify(file)
        assert found.sound, found.checks
        manifest = json.loads(contents(file)["manifest.json"])
        assert (manifest["trial"], manifest["champion"]) == (trial, champion)
        assert contents(file)["registry.jsonl"] == (storage / "registry.jsonl").read_bytes()
        (note,) = (check.note for check in found.checks if check.what == REGISTERED)
        assert f"picked/{other} was promoted by " in note
        assert "it is kinder" in note
    called = changed(verdicts, tmp_path / "it.zip", facts={"model": "picked@champion"})
    assert "by registry.jsonl that is" in wrong(called)[REGISTERED]
    (storage / "registry.jsonl").unlink()
    old = tmp_path / "old.zip"
    call("bundle", f"picked/{other}", "--to", old, "--storage", storage)
    assert verify(old).sound
    assert "registry.jsonl" not in contents(old)
    file = changed(old, tmp_path / "it.zip", facts={"model": "picked@champion"})
    assert "has no registry.jsonl" in wrong(file)["verdict and reading agree"]


def line_with(journal, event):
    lines = journal.split(b"\n")
    return next(i for i, raw in enumerate(lines) if f'"event":"{event}"'.encode() in raw)


def edited(event, change):
    def edit(journal):
        lines = journal.split(b"\n")
        index = line_with(journal, event)
        lines[index] = change(lines[index])
        return b"\n".join(lines)

    return edit


REGISTERED = "the registry's lines follow each other, and say who is champion"
CHANGES = {
    "a number of the journal": (
        {"files": {"journal.jsonl": edited(
            "sweep_ended", lambda raw: raw.replace(b'"champion":"t00', b'"champion":"t01'))}},
        "the journal's lines follow each other unchanged", "its sum differs"),
    "a line less": (
        {"files": {"journal.jsonl": lambda j: j[: j.rfind(b"\n", 0, -1) - 5] + b"\n"}},
        "the journal's lines follow each other unchanged", "damaged"),
    "another adapter": (
        {"files": {"model/adapter/adapter_model.safetensors": lambda b: b[:-1] + b"\0"}},
        "the adapter's hash is the journal's", "it is"),
    "better measures": (
        {"files": {"model/model.json": lambda raw: json.dumps(
            json.loads(raw) | {"measures": {"gain": 1.0}}).encode()}},
        "model.json says what the journal says", "measures"),
    "a better card": (
        {"files": {"model/card.json": lambda raw: json.dumps(
            json.loads(raw) | {"seeds": {}}).encode()}},
        "the adapter's card is the journal's", "seeds"),
    "another file of settings": (
        {"files": {"experiment.yaml": lambda raw: raw + b"# kind\n"}},
        "YAML and data hashes are the journal's", "experiment.yaml"),
    "better test scores": (
        {"files": {"test_readings.json": lambda raw: raw.replace(b"0.", b"1.", 1)}},
        "the test readings are the journal's", "something else"),
    "another sweep": (
        {"facts": {"sweep_id": "0" * 32}}, "the bundle is of the journal's sweep", "0000"),
    "no champion": (
        {"facts": {"champion": False}}, REGISTERED, "champion of 'picked' is picked/t"),
    "another name": ({"facts": {"name": "other"}}, REGISTERED, "is no adapter"),
    "a line of the registry": (
        {"files": {"registry.jsonl": lambda raw: raw.replace(b"driver", b"myself")}},
        REGISTERED, "line 1 is not as it was written"),
    "half a line of the registry": (
        {"files": {"registry.jsonl": lambda raw: raw[:-3]}}, REGISTERED, "not whole"),
    "no such trial": (
        {"facts": {"trial": "t099"}}, "the journal knows the trial", "t099"),
    "licences that are silent": (
        {"files": {"licences.json": lambda _: b"{}"}},
        "licences are stated, or said not to be", "nothing is said"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_found_though_the_manifest_was_made_to_fit(name, made, tmp_path):
    changes, what, said = CHANGES[name]
    file = changed(made, tmp_path / "it.zip", **{k: dict(v) for k, v in changes.items()})
    found = wrong(file)
    assert said in found[what], found
    assert call("verify", file).exit_code == errors.FAILED


def test_a_flipped_bit_is_found(made, tmp_path):
    content = bytearray(made.read_bytes())
    place = content.index(b"adapter_model.safetensors") + 2000
    content[place] ^= 1
    file = tmp_path / "it.zip"
    file.write_bytes(content)
    with pytest.raises(BundleError, match="Copy it again"):  # by the zip's own sum already
        verify(file)


def entry(name, mode=stat.S_IFREG | 0o644, kind=zipfile.ZIP_STORED):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr, info.compress_type = 3, mode << 16, kind
    return info


MANIFEST = json.dumps({"schema": "orchestrator/bundle/1", "files": {}})
HOSTILE = {
    "a path outside": ([(entry("../../etc/passwd"), b"x")], "leads elsewhere"),
    "an absolute path": ([(entry("/etc/passwd"), b"x")], "leads elsewhere"),
    "a path of Windows": ([(entry("..\\x"), b"x")], "leads elsewhere"),
    "a link": ([(entry("a", stat.S_IFLNK | 0o777), b"/etc/passwd")], "no plain file"),
    "a folder": ([(entry("a/"), b"")], "leads elsewhere"),
    "a bomb": ([(entry("a", kind=zipfile.ZIP_DEFLATED), bytes(1 << 22))], "compressed"),
    "one name twice": ([(entry("a"), b"1"), (entry("a"), b"2")], "more than once"),
    "many members": ([(entry(f"m{i}"), b"") for i in range(1001)], "no bundle has more"),
    "another form": ([], "is of the form"),
    "no manifest": ([(entry("a"), b"x")], "no bundle"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_made_to_do_harm_is_refused(name, tmp_path):
    members, said = HOSTILE[name]
    file = tmp_path / "bad.zip"
    with zipfile.ZipFile(file, "w") as archive:
        if name != "no manifest":
            text = MANIFEST.replace("/1", "/9") if name == "another form" else MANIFEST
            archive.writestr(entry("manifest.json"), text)
        for info, content in members:
            archive.writestr(info, content)
    with pytest.raises(BundleError, match=said), opened(file):
        pass
    assert list(tmp_path.iterdir()) == [file]


def test_members_that_overlap_and_what_is_no_zip_are_refused(tmp_path):
    file = tmp_path / "bad.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry("manifest.json"), MANIFEST)
        archive.writestr(entry("a"), bytes(5000))
        again = entry("b")
        again.file_size = again.compress_size = 5000
        again.header_offset, again.CRC = archive.getinfo("a").header_offset, 0
        archive.filelist.append(again)
        archive.NameToInfo["b"] = again
    with pytest.raises(BundleError, match="overlap"), opened(file):
        pass
    file.write_bytes(b"PK, but no zip")
    with pytest.raises(BundleError, match="no whole bundle"), opened(file):
        pass
    with pytest.raises(BundleError, match="cannot be read"), opened(tmp_path / "none"):
        pass
