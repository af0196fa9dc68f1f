"""Which models can be served together."""

import json

import pytest

from orchestrator.serving.find import ModelUseError
from orchestrator.serving.server.served import load_served
from tests.orchestrator.serving.server.conftest import MOOD


def load(*folders):
    return load_served([str(f) for f in folders], folders[0].parent, None, note=lambda text: None)


def test_kinds_that_cannot_be_packed_name_the_way_out(write_model, tmp_path):
    for kind, settings in (("randlora", {"r": 2}), ("full", {})):
        folder = write_model(tmp_path / kind, kind, settings, [MOOD])
        with pytest.raises(ModelUseError, match=f"{kind}.*--as merged"):
            load(folder)


def test_models_of_other_bases_or_the_same_name_are_refused(folders, write_model, tmp_path):
    other = write_model(tmp_path / "other", "lora", {"r": 2}, [MOOD])
    document = json.loads((other / "model.json").read_text())
    for changed, said in (
        ({"base": document["base"] | {"sha256": "0" * 64}}, "not have the same base.*sha256"),
        ({"precision": "bf16"}, "trained in fp32 .* in bf16"),
    ):
        (other / "model.json").write_text(json.dumps(document | changed))
        with pytest.raises(ModelUseError, match=said):
            load(folders["low"], other)
    with pytest.raises(ModelUseError, match="'low' is given twice"):
        load(folders["low"], folders["low"])


def test_a_model_of_heads_alone_goes_through_the_bare_base(write_model, tmp_path):
    from curlora.packing.pack import BARE

    folder = write_model(tmp_path / "heads", "head_only", {}, [{**MOOD, "head": "linear"}])
    served = load(folder)
    assert served.models["heads"].slot == BARE
    assert served.scored.heads is not None
