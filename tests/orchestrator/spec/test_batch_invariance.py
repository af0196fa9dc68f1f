"""Where trials of the pool can be computed to the same bits in any company."""

import pytest

from orchestrator.spec.batch_invariance import invariance_refused, is_default
from orchestrator.spec.sections import ResourceSpec, TrainingSpec

FP32, BF16 = TrainingSpec(precision="fp32"), TrainingSpec(precision="bf16")


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"workers": 2}, "`resources.workers` is 2"),
        ({"cpus_per_worker": 3}, "`resources.cpus_per_worker` is 3"),
    ],
)
def test_what_is_in_the_way_is_named(resources, said):
    spec = ResourceSpec(**resources)
    assert said in (invariance_refused(spec) or "")
    assert not is_default(FP32, spec)


@pytest.mark.parametrize(
    ("training", "resources", "default"),
    [
        (FP32, {}, True),
        (FP32, {"cpus_per_worker": 2}, True),
        (FP32, {"gpus_per_worker": 1}, False),
        (BF16, {}, False),
        (BF16, {"gpus_per_worker": 1}, False),
        (FP32, {"executor": "local"}, False),
        (BF16, {"executor": "train", "workers": 2}, False),
    ],
)
def test_it_is_the_default_in_fp32_on_a_cpu_only(training, resources, default):
    spec = ResourceSpec(**resources)
    assert invariance_refused(spec) is None
    assert is_default(training, spec) is default
