"""What tests of mailboxes share: a clock that they set, and jobs of which only the name is read."""

import types


class Clock:
    """Says what it is set to."""

    now = 0.0

    def __call__(self):
        return self.now


def job(name):
    """A job; nothing is read of it but its name."""
    return types.SimpleNamespace(trial=name)
