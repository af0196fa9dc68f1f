"""Executors: what planning knows of them is known of all."""

import typing

import pytest

from orchestrator.spec.sections import EXECUTORS, ResourceSpec


def test_every_executor_that_a_file_may_name_has_its_facts():
    named = typing.get_args(ResourceSpec.model_fields["executor"].annotation)
    assert set(named) == set(EXECUTORS)


@pytest.mark.parametrize("name", EXECUTORS)
def test_facts_of_an_executor_are_those_of_its_name(name):
    facts = ResourceSpec(executor=name).facts
    assert facts is EXECUTORS[name]
    assert 0 < facts.trial_start < facts.sweep_start
    assert facts.on_ray or not facts.packs, "only members of the pool hold several trials"
