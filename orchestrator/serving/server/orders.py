"""From requests to jobs: which model, which tokens, within which limits."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from orchestrator.data.items import Tokens
from orchestrator.serving.server.bodies import ChatBody, CompletionBody
from orchestrator.serving.server.jobs import Told, WriteJob
from orchestrator.serving.server.limits import Limits
from orchestrator.serving.server.problems import Problem, ProblemError, RefusedError
from orchestrator.serving.server.sampling import Sampling
from orchestrator.serving.server.served import ServedBase, ServedModel
from orchestrator.system.wording import cut, listed, suggestion

COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that names none, as OpenAI has it."""
CHAT_TOKENS = 1024
"""The same of a chat at most; less where fewer are left."""

Tell = Callable[[int, Told], None]
"""Told of the text with that number."""


@dataclass(frozen=True)
class Orders:
    """Makes the jobs of requests."""

    base: ServedBase
    limits: Limits
    numbers: itertools.count[int]
    """Of requests."""

    def model(self, name: str) -> ServedModel:
        """The model of a name.

        Args:
            name: What the request says.

        Returns:
            The model.

        Raises:
            ProblemError: There is none.
        """
        found = self.base.models.get(name)
        if found is None:
            known = list(self.base.models)
            message = (
                f"No model {cut(name)!r} is served.{suggestion(name, known)} There are "
                f"{listed(known)}; each is an adapter, and {self.base.name!r} the bare base."
            )
            raise ProblemError(Problem(404, message, "model_not_found", "model"))
        return found

    def completion(self, body: CompletionBody, tell: Tell) -> list[WriteJob]:
        """The texts of a completion request.

        Args:
            body: The request.
            tell: Told what becomes of each text.

        Returns:
            A job for each prompt.

        Raises:
            RefusedError: It cannot be carried out.
        """
        model = self._writing(body.model)
        if not body.prompts:
            raise RefusedError("`prompt` is empty.", "prompt")
        if len(body.prompts) > self.limits.queue:
            raise RefusedError(f"At most {self.limits.queue} prompts a request.", "prompt")
        self._check_top(body.logprobs, "logprobs")
        prompts = [self._prompt(one) for one in body.prompts]
        most = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        if most == 0 and not body.echo:
            raise RefusedError(
                "`max_tokens` 0 asks for nothing; only with `echo` it does.", "max_tokens"
            )
        echo = body.echo and (body.logprobs is not None or most == 0)
        return self._jobs(model, prompts, most, body, tell, top=body.logprobs, echo=echo)

    def chat(self, body: ChatBody, tell: Tell) -> list[WriteJob]:
        """The text of a chat request.

        Args:
            body: The request.
            tell: Told what becomes of it.

        Returns:
            One job.

        Raises:
            RefusedError: It cannot be carried out.
        """
        model, tokenizer = self._writing(body.model), self.base.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise RefusedError(
                "This base has no chat template. Ask `/v1/completions` with a prompt as it is in "
                "the task's file.", "messages",
            )  # fmt: skip
        if body.top_logprobs is not None and not body.logprobs:
            raise RefusedError("`top_logprobs` needs `logprobs: true`.", "top_logprobs")
        self._check_top(body.top_logprobs, "top_logprobs")
        try:
            text = tokenizer.apply_chat_template(
                [message.as_text for message in body.messages],
                tokenize=False, add_generation_prompt=True,
            )  # fmt: skip
        except TemplateError as error:
            raise RefusedError(
                f"The base's chat template refuses this: {error}", "messages"
            ) from None
        prompt = self._known(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
        asked = body.max_completion_tokens or body.max_tokens
        most = asked or max(1, min(CHAT_TOKENS, self.limits.length - len(prompt)))
        top = (body.top_logprobs or 0) if body.logprobs else None
        return self._jobs(model, [prompt], most, body, tell, top=top, echo=False)

    def _writing(self, name: str) -> ServedModel:
        model = self.model(name)
        if self.base.unwritten is not None:
            raise RefusedError(
                f"No texts are written with this base: {self.base.unwritten}. `/v1/classify` "
                "answers; `orchestrate export --as merged` writes a model for other servers.",
                "model", "not_supported",
            )  # fmt: skip
        return model

    def _check_top(self, top: int | None, field: str) -> None:
        if top is not None and top > self.limits.chances:
            raise RefusedError(
                f"`{field}` should be at most {self.limits.chances}, got {top}.", field
            )

    def _prompt(self, prompt: str | list[int]) -> Tokens:
        if not isinstance(prompt, str):
            return self._known(tuple(prompt))
        tokenizer = self.base.tokenizer
        tokens = list(tokenizer(prompt)["input_ids"])
        if len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id:
            tokens.pop()  # some tokenizers close every text; ours goes on
        return self._known(tuple(tokens))

    def _known(self, tokens: Tokens) -> Tokens:
        vocabulary = next(iter(self.base.models.values())).asking.vocabulary
        if not tokens:
            raise RefusedError("The prompt has no tokens, so nothing can follow it.", "prompt")
        odd = [t for t in tokens if t < 0 or (vocabulary is not None and t >= vocabulary)]
        if odd:
            raise RefusedError(f"The base has no token {odd[0]}: there are {vocabulary}.", "prompt")
        return tokens

    def _jobs(
        self,
        model: ServedModel,
        prompts: Sequence[Tokens],
        most: int,
        body: CompletionBody | ChatBody,
        tell: Tell,
        *,
        top: int | None,
        echo: bool,
    ) -> list[WriteJob]:
        longest = max(map(len, prompts))
        if longest + most > self.limits.length:
            raise RefusedError(
                f"The prompt has {longest} tokens and `max_tokens` is {most}; together they may be "
                f"{self.limits.length}. Shorten one of them.",
                "max_tokens", "context_length_exceeded",
            )  # fmt: skip
        temperature = 1.0 if body.temperature is None else body.temperature
        top_p = 1.0 if body.top_p is None else body.top_p
        number = next(self.numbers)
        return [
            WriteJob(
                request=number,
                model=model.name,
                slot=model.slot,
                deadline=self.deadline(),
                prompt=prompt,
                max_tokens=most,
                tell=lambda told, index=index: tell(index, told),
                sampling=Sampling(
                    temperature, top_p, None if body.seed is None else body.seed + index
                ),
                stop=body.stops,
                ends=self.base.ends,
                top=top,
                echo=echo,
                streamed=body.stream,
            )
            for index, prompt in enumerate(prompts)
        ]

    def deadline(self) -> float:
        """When a request that has come now is too late."""
        return time.monotonic() + self.limits.seconds


def decoded(tokenizer: Any, token: int) -> str:
    """One token as text."""
    return str(tokenizer.decode([token]))
