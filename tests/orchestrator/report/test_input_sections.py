"""What the page says of a sweep's inputs."""

from orchestrator.records.sweep_state import SweepState
from orchestrator.report.input_sections import made_from


def test_trials_that_ran_with_other_packages_are_named_with_them(new_story):
    story = new_story()
    story.lines[0]["provenance"] = {"packages": {"torch": "2.13.0", "peft": "0.20.0"}}
    story.complete("t001", 0.1)
    story.add("sweep_continued", packages={"torch": "2.14.0", "peft": "0.20.0"}, python="3.12.1")
    story.complete("t002", 0.2)
    story.complete("t003", 0.2)
    rows = [list(cells) for _, cells in made_from(SweepState.of(story.lines))["table"].rows]
    assert rows == [
        ["packages.torch", "2.13.0"],
        ["packages.peft", "0.20.0"],
        ["t002, t003 ran with", "torch 2.14.0, python 3.12.1"],
    ]
