"""The commands `submit`, `status`, `logs`, `stop` and `results`: sweeps as jobs of a cluster."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.application import app
from orchestrator.cli.console import make_console, print_json
from orchestrator.cli.errors import FAILED, answers_mistakes
from orchestrator.cli.options import (
    DEFAULT_STORAGE,
    DataRoot,
    File,
    Json,
    Retry,
    Storage,
    TimeBudget,
    check_data_root,
)
from orchestrator.cli.output.documents import outcome_document
from orchestrator.cli.output.next_commands import program
from orchestrator.cli.output.outcome_tables import render_outcome
from orchestrator.cli.output.tables import print_on, table
from orchestrator.cluster.jobs.client import Job, Jobs
from orchestrator.cluster.jobs.fetching import fetch
from orchestrator.cluster.jobs.submission import submit as submit_sweep
from orchestrator.records.journal_lines import read_journal
from orchestrator.spec.load import load_experiment
from orchestrator.system.user_error import UsageError

Dashboard = Annotated[
    str,
    typer.Option(
        "--address",
        help="The cluster's dashboard, for example http://127.0.0.1:8265.",
        envvar="ORCHESTRATOR_CLUSTER",
        show_default=False,
    ),
]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", show_default=False)]


@app.command()
@answers_mistakes
def submit(
    file: File,
    address: Dashboard,
    retry_failed: Retry = False,
    data_root: DataRoot = None,
    time_budget: TimeBudget = None,
    as_json: Json = False,
) -> None:
    """Let a Ray cluster run a file's sweep, or go on with it; return at once."""
    check_data_root(data_root)
    loaded = load_experiment(file, data_root)
    kind = "run" if loaded.experiment.search is None else "sweep"
    if kind == "run" and time_budget is not None:
        raise UsageError("`--time-budget` is for sweeps, and the file has no `search`.")
    options = ["--retry-failed"] if retry_failed else []
    options += ["--time-budget", time_budget] if time_budget is not None else []
    done = submit_sweep(Jobs(address), loaded, kind=kind, options=options)
    if as_json:
        print_json(asdict(done))
        return
    if not done.new:
        typer.echo(f"{done.sweep} is at work already, as job {done.submission}; it was left alone.")
    else:
        again = "goes on with what earlier jobs have finished" if done.again else "begins"
        typer.echo(f"Submitted {done.sweep} as job {done.submission}: it {again}.")
    _say_commands(done.sweep, address)


def _say_commands(sweep: str, address: str) -> None:
    orchestrate = " ".join(program())
    # A password in the address is better given in the environment.
    place = "" if "@" in address else f" --address {address}"
    typer.echo("It needs this machine no longer. Look at it with\n" + "\n".join(
        f"  {orchestrate} {words}{place}"
        for words in (f"status {sweep}", f"logs {sweep} --follow", f"results {sweep}",
                      f"stop {sweep}")
    ))  # fmt: skip


@app.command()
@answers_mistakes
def status(
    address: Dashboard,
    sweep: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="Only this sweep's jobs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the sweeps that were submitted to a cluster, and how they are."""
    jobs = Jobs(address)
    if sweep is not None:
        jobs.last(sweep)  # says which there are
    found = jobs.every(sweep)
    if as_json:
        print_json([asdict(job) for job in found])
        return
    if not found:
        typer.echo(f"No sweep was submitted to {jobs.address}.")
        return
    shown = table(
        "Submitted sweeps", "sweep", "job", "state", "begun", "took", left={"sweep", "job"}
    )
    for job in found:
        shown.add_row(job.sweep, job.submission, job.status.lower(), _when(job), _took(job))
    print_on(make_console(), shown)
    if sweep is None:
        return
    last = found[-1]
    if last.message:
        typer.echo(last.message)
    for line in jobs.logs(last.submission).splitlines()[-5:]:
        typer.echo(f"  {line}")


def _when(job: Job) -> str:
    if job.started is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))


def _took(job: Job) -> str:
    if job.started is None:
        return "-"
    minutes, seconds = divmod(int((job.ended or time.time()) - job.started), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


@app.command()
@answers_mistakes
def logs(
    sweep: Sweep,
    address: Dashboard,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over, or Ctrl-C.")
    ] = False,
) -> None:
    """Show what a submitted sweep has written."""
    jobs = Jobs(address)
    job = jobs.last(sweep)
    if not follow:
        typer.echo(jobs.logs(job.submission), nl=False)
        return

    async def show() -> None:
        async for text in jobs.follow(job.submission):
            typer.echo(text, nl=False)

    try:
        asyncio.run(show())
    except KeyboardInterrupt:
        typer.echo(f"\n{job.sweep} goes on; only this view has ended.", err=True)
        return
    ended = jobs.status(job.submission)
    typer.echo(f"Job {job.submission}: {ended.lower()}.", err=True)
    if ended != "SUCCEEDED":
        raise typer.Exit(FAILED)


@app.command("stop")
@answers_mistakes
def stop_command(sweep: Sweep, address: Dashboard) -> None:
    """Ask a submitted sweep to stop; what it has finished is kept, and `submit` goes on with it."""
    jobs = Jobs(address)
    job = jobs.last(sweep)
    if job.over:
        typer.echo(f"Job {job.submission} is over: {job.status.lower()}.")
        return
    jobs.stop(job.submission)
    typer.echo(f"Job {job.submission} was asked to stop. `status` says when it has.")


@app.command()
@answers_mistakes
def results(
    sweep: Sweep, address: Dashboard, storage: Storage = DEFAULT_STORAGE, as_json: Json = False
) -> None:
    """Fetch a submitted sweep's journal, report and champion, and show what it has found."""
    jobs = Jobs(address)
    folder = fetch(jobs, jobs.last(sweep), storage)
    lines = read_journal(folder)
    if as_json:
        print_json(outcome_document(lines, folder))
        return
    console = make_console()
    print_on(console, render_outcome(lines, folder, width=console.width))
    typer.echo(f"A copy of its journal, report and champion is in {folder}.")
