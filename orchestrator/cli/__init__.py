"""The command line: `orchestrate`.

Tables are for people and go to the terminal; `--json` is for programs. A mistake of the user's is
answered with one message on stderr and exit code 2, and never with a traceback;
unexpected errors show theirs. Heavy packages are imported by the commands that need them.
"""

# Commands register where they are defined, and the help lists them in the order of these lines.
# isort: off
from orchestrator.cli import sweeps, select, extend, reproduce, score, methods, browse
from orchestrator.cli import champion, models, predict, doctor, runs, tasks

# isort: on
from orchestrator.cli.application import app, main

__all__ = [
    "app", "browse", "champion", "doctor", "extend", "main", "methods", "models", "predict",
    "reproduce", "runs", "score", "select", "sweeps", "tasks",
]  # fmt: skip
