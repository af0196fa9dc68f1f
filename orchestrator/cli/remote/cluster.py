"""The commands `cluster template` and `cluster dashboard`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.application import app
from orchestrator.cli.errors import answers_mistakes
from orchestrator.cluster.templates.description import ClusterDescription
from orchestrator.cluster.templates.written import Provider, template
from orchestrator.sweep.telemetry.metrics import dashboard

cluster_app = typer.Typer(help="Files that describe a cluster.", no_args_is_help=True)
app.add_typer(cluster_app, name="cluster")


@cluster_app.callback()
def _cluster() -> None:
    """Files that describe a cluster."""


@cluster_app.command("template")
@answers_mistakes
def cluster_template(
    provider: Annotated[
        Provider,
        typer.Option(
            help="aws, gcp: for `ray up`; kuberay: a RayJob for Kubernetes; container: its image.",
            show_default=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="Of the cluster.")] = ClusterDescription.name,
    workers: Annotated[
        int, typer.Option(help="How many GPU nodes there may be.")
    ] = ClusterDescription.workers,
) -> None:
    """Print the file that describes a cluster for sweeps; values to replace are marked."""
    typer.echo(template(provider, ClusterDescription(name=name, workers=workers)), nl=False)


@cluster_app.command("dashboard")
def cluster_dashboard() -> None:
    """Print the Grafana dashboard of the metrics that sweeps export, as JSON to import."""
    typer.echo(dashboard(), nl=False)
