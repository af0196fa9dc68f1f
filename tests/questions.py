"""Questions with continuations of several tokens, and what a model says of each alone."""

import itertools
import random

import torch

from orchestrator.data.items import Question

VOCABULARY = 38
"""Token ids of the tiny base."""


def questions(count=6, seed=0):
    """Prompts of 3 to 9 tokens with 2 to 4 continuations of 1 to 6, some of 1 token each."""
    generator = random.Random(seed)

    def text(least, most):
        return tuple(
            generator.randrange(3, VOCABULARY) for _ in range(generator.randint(least, most))
        )

    made = []
    for number in range(count):
        most = 1 if number == 2 else 6
        tails = tuple(text(1, most) for _ in range(generator.randint(2, 4)))
        made.append(Question(text(3, 9), tails, tuple(map(len, tails)), 0))
    return made


def own_likelihoods(model, asked):
    """By the model's own logits, a text at a time."""
    found = []
    for question in asked:
        sums = []
        for tail in question.continuations:
            tokens = torch.tensor([question.prompt + tail])
            with torch.no_grad():
                logits = model(input_ids=tokens, use_cache=False).logits[0].log_softmax(-1)
            first = len(question.prompt) - 1
            sums.append(sum(float(logits[first + i, t]) for i, t in enumerate(tail)))
        found.append(sums)
    return found


def flat(lists):
    return list(itertools.chain.from_iterable(lists))
