"""Plugins: what is found, what is refused, and that nothing is loaded unasked."""

import sys
import textwrap

import pytest

from curlora_kinds import plugins
from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.plugins import (
    LOADED,
    PluginError,
    load_plugin,
    load_plugins_of_environment,
    missing_plugins,
    unload_plugin,
)
from curlora_kinds.retentions.table import RETENTIONS

ADAPTER = """
    from curlora_kinds.adapters.counts import nothing
    from curlora_kinds.adapters.kind import AdapterKind
    from curlora_kinds.adapters.lora_family.lora import KIND as LORA

    MINE = AdapterKind(name="{name}", summary="s", count_trained=nothing)
    _HIDDEN = AdapterKind(name="hidden", summary="s", count_trained=nothing)
"""


@pytest.fixture
def write(tmp_path):
    """Writes a module into a folder; what it declared is forgotten after the test."""

    def written(text=ADAPTER, name="mine_zz", kind="mine", place="{}.py"):
        path = tmp_path / place.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).replace("{name}", kind))
        return path

    yield written
    for name in [*LOADED, "mine_zz"]:
        unload_plugin(name)


def test_public_kinds_of_a_file_are_added_and_nothing_else(write, tmp_path):
    ours = set(ADAPTERS)
    write()
    plugin = load_plugin("mine_zz", folder=tmp_path)
    assert set(ADAPTERS) - ours == {"mine"}
    assert ADAPTERS.plugin_of("mine") == "mine_zz" == plugin.name
    assert ADAPTERS.plugin_of("lora") is None
    assert len(plugin.sha256) == 64
    assert load_plugin("mine_zz", folder=tmp_path) == plugin, "again is no error"
    unload_plugin("mine_zz")
    assert set(ADAPTERS) == ours


@pytest.mark.parametrize("place", ["{}.py", "{}/__init__.py"])
def test_a_path_and_a_package_are_found_like_a_name(write, tmp_path, place):
    path = write(place=place)
    assert load_plugin(str(path)).name == "mine_zz"
    assert load_plugin("mine_zz", folder=tmp_path).file == path
    assert load_plugin(f"./{path.relative_to(tmp_path)}", folder=tmp_path).file == path


def test_a_change_anywhere_in_a_package_is_another_source(write, tmp_path):
    write(place="{}/__init__.py")
    write("X = 1\n", place="{}/part.py")
    before = load_plugin("mine_zz", folder=tmp_path)
    unload_plugin("mine_zz")
    write("X = 2\n", place="{}/part.py")
    assert load_plugin("mine_zz", folder=tmp_path).sha256 != before.sha256


def test_a_pinned_source_is_the_only_one_that_is_taken(write, tmp_path):
    write()
    plugin = load_plugin("mine_zz", folder=tmp_path)
    write(ADAPTER + "    # changed\n")
    assert load_plugin(plugin.pinned) == plugin, "this process runs the source that is wanted"
    with pytest.raises(PluginError, match="changed since this process loaded it"):
        load_plugin("mine_zz", folder=tmp_path)
    unload_plugin("mine_zz")
    with pytest.raises(PluginError, match=r"not the source .* SHA-256 .* stop the sweep"):
        load_plugin(plugin.pinned)
    assert "mine" not in ADAPTERS
    write()
    assert load_plugin(plugin.pinned) == plugin


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise OSError('no such disk')", "fails while it is imported: OSError: no such disk"),
        ("import nowhere_zz", "must not import files that lie beside it"),
        ("def (", "fails while it is imported: SyntaxError"),
        (ADAPTER.replace("{name}", "lora"), "the adapter 'lora', .* already, built in"),
        (ADAPTER + "    B = MINE.__class__(name='{name}', summary='', count_trained=nothing)\n",
         "already, of the plugin `mine_zz`"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_plugin_is_said_and_leaves_nothing(write, tmp_path, text, said):
    ours = set(ADAPTERS)
    write(text)
    with pytest.raises(PluginError, match=said):
        load_plugin("mine_zz", folder=tmp_path)
    assert set(ADAPTERS) == ours
    assert "mine_zz" not in sys.modules
    assert "mine_zz" not in LOADED


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere_zz", "neither a file nowhere_zz.py in the folder"),
        ("./nowhere_zz.py", "There is no plugin './nowhere_zz.py'"),
        ("not-a-module", "neither the name of a module"),
        ("./json.py", "another module 'json' is loaded"),
    ],
)
def test_a_plugin_that_is_not_there(write, tmp_path, reference, said):
    write(name="json")
    with pytest.raises(PluginError, match=said):
        load_plugin(reference, folder=tmp_path)


def test_entry_points_and_the_variable_name_plugins(write, tmp_path, monkeypatch):
    write()
    write(name="other_zz", kind="other")
    entry = tmp_path / "mine-1.0.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (entry / "entry_points.txt").write_text(f"[{plugins.ENTRY_POINTS}]\nmine = mine_zz\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, f"{tmp_path / 'other_zz.py'}, mine_zz,")
    assert [plugin.name for plugin in load_plugins_of_environment()] == ["mine_zz", "other_zz"]
    assert {"mine", "other"} <= set(ADAPTERS)


def test_a_name_without_a_folder_takes_no_file_of_the_working_directory(
    write, tmp_path, monkeypatch
):
    write()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError, match="There is no plugin 'mine_zz'"):
        load_plugin("mine_zz")
    assert load_plugin("mine_zz.py").name == "mine_zz", "a path says which file is meant"


def test_missing_plugins_are_named_and_not_loaded(write, tmp_path):
    path = write()
    assert missing_plugins([str(path), f"{path}#sha256=00", "other_zz"]) == ["mine_zz", "other_zz"]
    assert "mine_zz" not in sys.modules
    load_plugin(str(path))
    assert missing_plugins([str(path)]) == []


def test_a_retention_may_be_a_function_or_name_its_class(write, tmp_path):
    write("""
        from curlora_kinds.retentions.kind import RetentionKind
        from curlora_kinds.settings import Number

        class Named:
            def __init__(self, weight):
                self.weight = weight

        SETTINGS = {"weight": Number(1.0, "w", least=0)}
        NAMED = RetentionKind(name="named", summary="", settings=SETTINGS, made_by="mine_zz:Named")
        MADE = RetentionKind(
            name="made", summary="", settings=SETTINGS, made_by=lambda weight: Named(weight)
        )
    """)
    load_plugin("mine_zz", folder=tmp_path)
    assert RETENTIONS["named"].build({"weight": 3}).weight == 3.0
    assert RETENTIONS["made"].build().weight == 1.0
    with pytest.raises(ValueError, match="`weight` must be a number of at least 0, got -1"):
        RETENTIONS["made"].build({"weight": -1})
    with pytest.raises(ValueError, match=r"no setting 'wait'.*mean 'weight'"):
        RETENTIONS["made"].build({"wait": 1})
