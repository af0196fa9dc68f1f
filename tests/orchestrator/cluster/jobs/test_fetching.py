"""What a cluster says of a sweep never leads out of the storage folder here."""

import pytest

from orchestrator.cluster.jobs.client import Job
from orchestrator.cluster.jobs.errors import JobError
from orchestrator.cluster.jobs.fetching import fetch


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc"])
def test_a_name_that_is_a_path_is_refused_before_anything_is_asked(name, tmp_path):
    job = Job("job", name, "/mnt/sweeps", "SUCCEEDED", "", None, None)
    with pytest.raises(JobError, match="no folder's name"):
        fetch(None, job, tmp_path)
    assert list(tmp_path.iterdir()) == []
