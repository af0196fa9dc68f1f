"""What a worker's process imports."""

import subprocess
import sys

import pytest

CODE = """
import sys
from types import SimpleNamespace
from orchestrator.executors.worker_group import QUANTISERS, leave_out_quantisers

leave_out_quantisers(SimpleNamespace(model=SimpleNamespace(quantization={quantization!r})))
import orchestrator.executors.pool.member
print([name for name in QUANTISERS if sys.modules.get(name) is not None])
"""


@pytest.mark.parametrize(("quantization", "there"), [(None, False), ("nf4", True)])
def test_packages_for_quantised_bases_are_imported_where_there_is_one(quantization, there):
    pytest.importorskip("bitsandbytes")
    code = CODE.format(quantization=quantization)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert ("bitsandbytes" in done.stdout) is there
