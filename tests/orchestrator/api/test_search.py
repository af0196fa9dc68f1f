import pytest

import orchestrator
from orchestrator.registry.query.errors import QueryError
from tests import written_journals


def test_trials_of_all_sweeps_are_one_data_frame(tmp_path, new_sweep):
    for name in ("demo", "other"):
        written_journals.write(tmp_path, name, new_sweep(trials=3, failing=[2]))
    every = orchestrator.search(storage=tmp_path)
    assert every.index.names == ["sweep", "trial"]
    assert len(every) == 6
    assert {str(every.dtypes[name]) for name in ("gain", "probe_accuracy_kept")} == {"float64"}
    assert every.loc[("demo", "t002"), "state"] == "FAILED"
    found = orchestrator.search(
        "gain > -9 or state = FAILED", storage=tmp_path, sweep="other", order="-gain", limit=2,
        columns=["gain", "method.adapter.kind"],
    )  # fmt: skip
    assert list(found.columns) == ["gain", "method.adapter.kind"]
    assert found["gain"].is_monotonic_decreasing
    assert set(found.index.get_level_values("sweep")) == {"other"}
    assert orchestrator.search("gain > 9", storage=tmp_path).empty
    with pytest.raises(QueryError, match="'gain'"):
        orchestrator.search("gian > 0", storage=tmp_path)
