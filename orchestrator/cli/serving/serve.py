"""The command `serve`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestrator.cli.application import app
from orchestrator.cli.console import print_note
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cli.listing import completion
from orchestrator.cli.options import DEFAULT_STORAGE, MovedBase, Storage, TrackingUri
from orchestrator.system.user_error import UsageError

LONGEST = 4096
"""Tokens of prompt and answer together where neither the user nor the base says less."""


@app.command()
@answers_mistakes
def serve(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="One or more of NAME@champion, NAME/VERSION, SWEEP/TRIAL, or a model folder; all "
            "on one base. Each is asked by this name, the bare base by its own.",
            show_default=False,
            autocompletion=completion.references,
        ),
    ],
    port: Annotated[
        int, typer.Option(help="Where to answer; 0 takes any free port.", min=0, max=65535)
    ] = 8000,
    host: Annotated[
        str,
        typer.Option(help="The address to answer at. Any other lets other machines ask."),
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name that clients may know this server by; repeat it.", metavar="NAME"
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            help=f"Tokens of prompt and answer together; by default what the base can read, "
            f"{LONGEST} at most.",
            min=2,
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(help="Texts that are written at a time, in one batch.", min=1)
    ] = 32,
    queue: Annotated[
        int, typer.Option(help="Requests that may wait; further ones are answered 429.", min=1)
    ] = 64,
    seconds: Annotated[
        float, typer.Option(help="How long a request may take, waiting included.", min=1.0)
    ] = 300.0,
    grace: Annotated[
        float, typer.Option(help="Seconds for requests in work, once asked to end.", min=0.0)
    ] = 10.0,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda or cuda:N; by default a GPU if there is one.", metavar="NAME"),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    tracking_uri: TrackingUri = None,
    base: MovedBase = None,
) -> None:
    """Answer OpenAI-compatible requests with trained adapters on one base, in shared passes."""
    import torch

    from orchestrator.serving.server.checks import LOOPBACK
    from orchestrator.serving.server.limits import Limits
    from orchestrator.serving.server.run import bound
    from orchestrator.serving.server.run import serve as answer
    from orchestrator.serving.server.served import load_served

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(chosen, torch.cuda.device_count())
    taken = bound(host, port)
    if host not in LOOPBACK:
        print_note(
            f"{host} is not this machine's own address: any machine that reaches it can use these "
            "models. Requests are not encrypted and ask for no password."
        )
    began = time.monotonic()
    served = load_served(
        references, storage, tracking_uri, base=base, device=chosen, note=print_note
    )
    most = min(served.context or LONGEST, length or LONGEST)
    if length is not None and length > most:
        raise UsageError(f"`--length` is {length}, and the base reads at most {most} tokens.")
    address = f"http://{_shown(host)}:{taken.getsockname()[1]}"
    if served.unwritten is not None:
        print_note(f"no texts are written, labels only: {served.unwritten}")

    def ready() -> None:
        typer.echo(f"Loaded in {time.monotonic() - began:.1f} s, on {chosen}:")
        for name, model in served.models.items():
            tasks = ", ".join(model.asking.tasks) or "no tasks"
            typer.echo(f"  {name}  ({'the bare base' if name == served.name else tasks})")
        typer.echo(f"Answering at {address}/v1 until Ctrl-C.")

    limits = Limits(length=most, rows=rows, queue=queue, seconds=seconds, grace=grace)
    answer(served, taken, limits, hosts=[host, *(allow_host or ())], ready=ready)
    typer.echo("Ended.")


def _check_device(device: str, gpus: int) -> None:
    kind, colon, number = device.partition(":")
    known = kind == "cuda" and (not colon or number.isdigit()) and int(number or 0) < gpus
    if device != "cpu" and not known:
        raise UsageError(
            f"`--device` should be cpu, or one of {gpus} GPUs (cuda:N); got {device!r}."
        )


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
