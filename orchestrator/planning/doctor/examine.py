"""What a machine needs to run a sweep: each check says what it found and how to fix it.

Nothing heavier than torch is imported, and no Ray, MLflow or DeepSpeed is started.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.planning.doctor.build import build_op, check_compiler, check_ninja, check_op
from orchestrator.planning.doctor.check import Check
from orchestrator.planning.doctor.disk import check_database, check_disk, check_writable
from orchestrator.planning.doctor.packages import (
    check_mlflow,
    check_python,
    check_ray,
    check_torch,
    check_versions,
)
from orchestrator.planning.doctor.resources import (
    check_cores,
    check_environment,
    check_hub,
    check_memory,
    check_precision,
    check_ray_folder,
    check_shared_memory,
)


def examine(storage: Path, *, build: bool = False) -> list[Check]:
    """Run every check.

    Args:
        storage: The folder that sweeps are kept in; it need not exist yet.
        build: Build DeepSpeed's communication op first, which takes about a minute.

    Returns:
        The outcomes, in the order in which to fix them.
    """
    checks: list[Callable[[], Check]] = [
        check_python,
        check_versions,
        check_torch,
        check_compiler,
        check_ninja,
        build_op if build else check_op,
        check_ray,
        check_mlflow,
        check_cores,
        check_precision,
        check_memory,
        check_shared_memory,
        check_ray_folder,
        check_environment,
        check_hub,
        lambda: check_writable(storage),
        lambda: check_disk(storage),
        lambda: check_database(storage),
    ]
    return [check() for check in checks]
