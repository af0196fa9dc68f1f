"""The addresses that are answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.serving.server.bodies import (
    ChatBody,
    ClassifyBody,
    CompletionBody,
    read_body,
)
from orchestrator.serving.server.checks import HostCheck, body_of
from orchestrator.serving.server.engine import Engine
from orchestrator.serving.server.jobs import Job, Told
from orchestrator.serving.server.judgement import Judgement, judged
from orchestrator.serving.server.metrics import Metrics
from orchestrator.serving.server.orders import Orders
from orchestrator.serving.server.problems import CLOSING, Problem, ProblemError
from orchestrator.serving.server.replies import DONE, Reply, event

_Result = TypeVar("_Result")
_GONE = 499
"""The status of a request whose client has gone, as in nginx: nobody reads it."""


class Endpoints:
    """Answers requests with what an engine computes."""

    def __init__(self, engine: Engine, orders: Orders, metrics: Metrics) -> None:
        """Take an engine.

        Args:
            engine: Computes; started and closed with the application.
            orders: Makes jobs of requests.
            metrics: Told what is answered.
        """
        self._engine, self._orders, self._metrics = engine, orders, metrics
        # One, as tokenizers are not made to be used by several threads.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    def application(self, hosts: Sequence[str]) -> Starlette:
        """The application.

        Args:
            hosts: Names in a request's Host header that are the server's.

        Returns:
            An ASGI application.
        """

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            self._engine.start()
            try:
                yield
            finally:
                await asyncio.to_thread(self._engine.close)
                self._reader.shutdown(wait=False)

        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/metrics", self._shown_metrics),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/v1/completions", self._counted(self._completions), methods=["POST"]),
                Route("/v1/chat/completions", self._counted(self._chat), methods=["POST"]),
                Route("/v1/classify", self._counted(self._classify), methods=["POST"]),
            ],
            middleware=[Middleware(HostCheck, hosts=hosts)],
            exception_handlers={404: _no_address, 405: _no_address},
            lifespan=lifespan,
        )

    # ------------------------------------------------------------------ what there is

    async def _health(self, _: Request) -> Response:
        if not self._engine.is_alive:
            return _refusal(CLOSING)
        return JSONResponse({"status": "ok", "models": len(self._orders.base.models)})

    async def _shown_metrics(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _models(self, _: Request) -> Response:
        data = [self._shown_model(name) for name in self._orders.base.models]
        return JSONResponse({"object": "list", "data": data})

    async def _model(self, request: Request) -> Response:
        try:
            return JSONResponse(
                self._shown_model(self._orders.model(request.path_params["name"]).name)
            )
        except ProblemError as error:
            return _refusal(error.problem)

    def _shown_model(self, name: str) -> dict[str, Any]:
        base, model = self._orders.base, self._orders.base.models[name]
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "curlora-orchestrator",
            "parent": None if name == base.name else base.name,
            "max_model_len": self._orders.limits.length,
            "tasks": model.asking.tasks,
            **model.facts,
        }

    # ------------------------------------------------------------------ what is asked

    def _counted(
        self, answer: Callable[[Request, float], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint whose refusals have OpenAI's shape, and whose answers are counted."""

        async def counted(request: Request) -> Response:
            began = time.monotonic()
            try:
                return await answer(request, began)
            except ProblemError as error:
                return self._done(request, "", began, _refusal(error.problem))
            except ClientDisconnect:
                return self._done(request, "", began, Response(status_code=_GONE))

        return counted

    def _done(self, request: Request, model: str, began: float, response: Response) -> Response:
        self._count(request, model, began, response.status_code)
        return response

    def _count(self, request: Request, model: str, began: float, status: int) -> None:
        path = request.url.path
        self._metrics.requests.labels(path, model, str(status)).inc()
        self._metrics.seconds.labels(path).observe(time.monotonic() - began)

    async def _read(self, request: Request, work: Callable[[bytes], _Result]) -> _Result:
        """Do with a request's body what takes a while, beside the event loop."""
        raw = await body_of(request, self._orders.limits.body)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, work, raw)

    async def _completions(self, request: Request, began: float) -> Response:
        news = _News()

        def read(raw: bytes) -> tuple[Reply, bool, bool]:
            body = read_body(raw, CompletionBody)
            jobs = self._orders.completion(body, news.tell)
            reply = Reply(
                "completion", body.model, jobs, self._orders.base.tokenizer, echoed=body.echo
            )
            return (
                reply,
                body.stream,
                bool(body.stream_options and body.stream_options.include_usage),
            )

        return await self._written(request, began, news, *await self._read(request, read))

    async def _chat(self, request: Request, began: float) -> Response:
        news = _News()

        def read(raw: bytes) -> tuple[Reply, bool, bool]:
            body = read_body(raw, ChatBody)
            jobs = self._orders.chat(body, news.tell)
            reply = Reply("chat", body.model, jobs, self._orders.base.tokenizer)
            return (
                reply,
                body.stream,
                bool(body.stream_options and body.stream_options.include_usage),
            )

        return await self._written(request, began, news, *await self._read(request, read))

    async def _written(
        self, request: Request, began: float, news: _News, reply: Reply, stream: bool, usage: bool
    ) -> Response:
        self._engine.submit(reply.jobs)
        if stream:
            pieces = self._pieces(request, began, news, reply, usage=usage)
            return StreamingResponse(
                pieces, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        async with _watched(request, reply.jobs):
            told = await news.all(len(reply.jobs), lambda: self._first(began))
        return self._done(request, reply.model, began, JSONResponse(reply.whole(told)))

    async def _pieces(
        self, request: Request, began: float, news: _News, reply: Reply, *, usage: bool
    ) -> AsyncIterator[bytes]:
        """A text as server-sent events; a client that goes away ends it."""
        status, left = _GONE, len(reply.jobs)
        try:
            for index in range(left):
                if (first := reply.begin(index)) is not None:
                    yield event(first)
            shown = False
            while left:
                index, told = await news.next()
                if told.problem is not None:
                    status = told.problem.status
                    yield event(told.problem.document)
                    return
                if not shown:
                    shown = True
                    self._first(began)
                left -= told.last
                if (piece := reply.piece(index, told)) is not None:
                    yield event(piece)
            if usage:
                yield event(reply.last())
            yield DONE
            status = 200
        finally:
            for job in reply.jobs:
                job.cancelled = True
            self._count(request, reply.model, began, status)

    def _first(self, began: float) -> None:
        self._metrics.first_token.observe(time.monotonic() - began)

    async def _classify(self, request: Request, began: float) -> Response:
        loop = asyncio.get_running_loop()

        def read(raw: bytes) -> tuple[str, Judgement]:
            body = read_body(raw, ClassifyBody)
            return body.model, Judgement(self._orders, body, loop.call_soon_threadsafe)

        name, asked = await self._read(request, read)
        self._engine.submit(asked.jobs)
        async with _watched(request, asked.jobs):
            answers = await asked.answers()
        found = judged(self._orders.model(name), asked.task, answers)
        found["usage"] = {"prompt_tokens": asked.tokens, "total_tokens": asked.tokens}
        return self._done(request, name, began, JSONResponse(found))


class _News:
    """What the engine's thread tells of some texts, for the event loop's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[tuple[int, Told]] = asyncio.Queue()

    def tell(self, index: int, told: Told) -> None:
        """Called in the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended, and whoever waited with it
            self._loop.call_soon_threadsafe(self._told.put_nowait, (index, told))

    async def next(self) -> tuple[int, Told]:
        """The next news."""
        return await self._told.get()

    async def all(self, count: int, first: Callable[[], None]) -> list[list[Told]]:
        """All news of some texts.

        Args:
            count: How many texts there are.
            first: Called at the first of them.

        Returns:
            Of each text.

        Raises:
            ProblemError: One of them failed.
        """
        found: list[list[Told]] = [[] for _ in range(count)]
        left = count
        while left:
            index, told = await self._told.get()
            if told.problem is not None:
                raise ProblemError(told.problem)
            if not any(found):
                first()
            found[index].append(told)
            left -= told.last
        return found


@asynccontextmanager
async def _watched(request: Request, jobs: Sequence[Job]) -> AsyncIterator[None]:
    """Within it, jobs are let go when the client is; and at its end."""
    waiting = asyncio.current_task()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if waiting is not None:
            waiting.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if watching.done() and not watching.cancelled():
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()
        for job in jobs:
            job.cancelled = True


def _refusal(problem: Problem) -> JSONResponse:
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    return JSONResponse(problem.document, problem.status, headers)


async def _no_address(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    message = (
        f"{request.method} {request.url.path} is not answered. There are GET /v1/models, /health "
        "and /metrics, and POST /v1/completions, /v1/chat/completions and /v1/classify."
    )
    return _refusal(Problem(status, message, "no_such_address"))
