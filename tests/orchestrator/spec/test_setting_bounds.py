"""Every bound of every setting, through an experiment file and through the library.

The cases come from the tables of kinds: a new setting is tried without being named here.
"""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
from pydantic import ValidationError

from curlora import CurloraConfig, SecuraConfig, adapter_config
from curlora_kinds.adapters.table import ADAPTERS
from curlora_kinds.retentions.table import RETENTIONS
from curlora_kinds.settings import Choice, Flag, Number, ShareOrCount, Targets, Whole
from orchestrator.spec.adapter_settings import ADAPTER_SETTINGS
from orchestrator.spec.methods import MethodSpec
from orchestrator.spec.retention_settings import RETENTION_SETTINGS, retention_options

STEP = 1e-6


def edges(setting):
    """Values at a setting's bounds and beyond them, and whether each is allowed."""
    match setting:
        case Number():
            yield from _numbers(setting)
        case ShareOrCount():
            yield from ((v, True) for v in (STEP, 0.5, 1 - STEP, 1, 2, 1000))
            yield from ((v, False) for v in (0, 0.0, -0.5, -1, 1.0, 3.7, math.nan, "2 of them"))
        case Choice():
            yield from ((word, True) for word in setting.choices)
            yield from [("another", False), (1, False), (None, setting.optional)]
        case Flag():
            yield from [(True, True), (False, True), (2, False), ("perhaps", False)]
            yield None, setting.default is None
        case Targets():
            yield from ((v, True) for v in (None, "all-linear", ["q_proj"]))
            yield from ((v, False) for v in ([], "", [1], 1))
        case _:
            raise NotImplementedError(f"the bounds of a {type(setting).__name__}")


def _numbers(setting):
    step = 1 if isinstance(setting, Whole) else STEP
    if setting.least is not None:
        yield from [(setting.least, True), (setting.least - step, False)]
    if setting.above is not None:
        yield from [(setting.above + step, True), (setting.above, False)]
    if setting.most is not None:
        yield from [(setting.most, True), (setting.most + step, False)]
    if setting.below is not None:
        yield from [(setting.below - step, True), (setting.below, False)]
    if setting.nonzero:
        yield from [(step, True), (-step, True), (0, False), (0.0, False)]
    if isinstance(setting, Whole):
        yield 2.5, False
    if setting.most is None and setting.below is None:
        yield 1_000_000, True
    yield from ((word, True) for word in setting.words)
    yield from [("many", False), (math.nan, False), (math.inf, False), (None, setting.optional)]


def accepted(build):
    """Whether something is built rather than refused; any other error is one of the test."""
    try:
        build()
    except (ValueError, ValidationError):
        return False
    return True


def case(kind, name, value):
    """The settings to try, with a rank under which no other setting is out of place."""
    return {"r": 1, name: value} if "r" in kind.settings else {name: value}


def settings_of(table):
    """Each setting of each kind, as cases."""
    return [
        pytest.param(kind, name, id=f"{kind.name}-{name}")
        for kind in table.values()
        for name in kind.settings
    ]


@pytest.mark.parametrize(("kind", "name"), settings_of(ADAPTERS))
def test_an_adapters_file_and_the_library_have_the_same_bounds(kind, name):
    source = {"source": "lore"} if kind.reads_text else {}
    for value, in_range in edges(kind.settings[name]):
        settings = case(kind, name, value)
        allowed = in_range and accepted(lambda s=settings: kind.check(kind.defaults | s))
        written = {"adapter": {"kind": kind.name, **source, **settings}}
        library = accepted(lambda s=settings: adapter_config(kind.name, s))
        file = accepted(lambda w=written: MethodSpec.model_validate(w))
        assert library == allowed, f"the library: {name} = {value!r}"
        assert file == (allowed and kind.settings[name].in_file), f"a file: {name} = {value!r}"


@pytest.mark.parametrize(("kind", "name"), settings_of(RETENTIONS))
def test_a_retentions_file_and_the_library_have_the_same_bounds(kind, name):
    for value, in_range in edges(kind.settings[name]):
        settings = case(kind, name, value)
        allowed = in_range and accepted(lambda s=settings: kind.check(kind.defaults | s))
        written = {"adapter": {"kind": "lora"}, "retention": {"kind": kind.name, **settings}}
        library = accepted(lambda s=settings: kind.build(s))
        file = accepted(lambda w=written: MethodSpec.model_validate(w))
        assert library == allowed, f"the library: {name} = {value!r}"
        assert file == (allowed and kind.settings[name].in_file), f"a file: {name} = {value!r}"


@pytest.mark.parametrize(
    "adapter",
    [
        {"kind": "osf", "effective_rank": 2},
        {"kind": "osf", "effective_rank": 0.25},
        {"kind": "secura", "share": 1.0},
    ],
)
def test_what_a_file_says_reaches_the_library_as_it_is(adapter):
    read = MethodSpec.model_validate({"adapter": adapter}).adapter
    settings = {name: getattr(read, name) for name in adapter if name != "kind"}
    config = adapter_config(adapter["kind"], settings)
    for name, value in settings.items():
        assert getattr(config, name) == value == adapter[name]
        assert type(value) is type(adapter[name])


@pytest.mark.parametrize(("kind", "config"), [("curlora", CurloraConfig), ("secura", SecuraConfig)])
def test_a_config_of_ours_has_the_defaults_of_its_kind(kind, config):
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    assert ADAPTERS[kind].defaults.items() <= fields.items()


def test_source_sets_are_named_in_a_file_and_counted_by_the_library():
    retention = MethodSpec.model_validate({
        "adapter": {"kind": "lora"},
        "retention": {"kind": "laplace", "sources": ["lore"], "online": False},
    }).retention  # fmt: skip
    options = retention_options(retention, seed=3)
    assert RETENTIONS["laplace"].complete(options)["source"] == "texts"


def test_settings_travel_to_workers():
    """As an experiment is sent: pickle finds the models that are made of the tables."""
    for models in (ADAPTER_SETTINGS, RETENTION_SETTINGS):
        for model in models.values():
            assert pickle.loads(pickle.dumps(model)) is model
