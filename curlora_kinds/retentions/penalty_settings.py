"""Settings that several retentions have."""

from __future__ import annotations

from curlora_kinds.settings import Number, Whole

DECAY = Number(
    1.0,
    "Gamma: what earlier curvature is multiplied with when a task's is added; 1 is a sum.",
    least=0,
    most=1,
)
MAX_EXAMPLES = Whole(
    256,
    "Training examples of a task (or rows of a source set) whose gradients are taken.",
    least=1,
)
STRENGTH = Number(
    "auto",
    "Lambda: the penalty is lambda / 2 times the quadratic form; `auto`: found as each task "
    "begins, so that `pull` holds. 1 is the posterior's own weight where the loss is the mean "
    "negative log-probability of an example and tasks are of equal size, and has been too weak to "
    "be seen.",
    least=0,
    words=("auto",),
)
PULL = Number(
    1.0,
    "With `strength: auto`, the norm of the penalty's gradient over that of the loss's at the "
    "furthest that a task can go.",
    least=0,
)
SHARE = Number(1.0, "Replayed rows for each row of the batch.", least=0)
SEED = Whole(0, "Where the draws come from: the run's seed.", least=0, in_file=False)


def capacity(default: int) -> Whole:
    """Make the setting of how many examples are kept.

    Args:
        default: How many where nothing is said.

    Returns:
        The setting.
    """
    return Whole(default, "Examples kept of all finished tasks together.", least=1)
