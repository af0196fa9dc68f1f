"""Writing a cluster's files from its description."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

from orchestrator.cluster.templates.description import CLOUDS, ClusterDescription

Provider = Literal["aws", "gcp", "kuberay", "container"]
_TEMPLATES = {"kuberay": "ray_job.yaml.jinja", "container": "Containerfile.jinja"}


def template(provider: Provider, cluster: ClusterDescription) -> str:
    """The file of a provider.

    Args:
        provider: `aws` and `gcp`: for `ray up`; `kuberay`: a RayJob for Kubernetes; `container`:
            the recipe of the image that the latter runs.
        cluster: The cluster.

    Returns:
        Text; what the user has to replace is marked PLACEHOLDER.
    """
    import jinja2

    name = _TEMPLATES.get(provider, "ray_up.yaml.jinja")
    text = files("orchestrator.cluster.templates").joinpath(name).read_text(encoding="utf-8")
    made = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    ).from_string(text)
    return made.render(cluster=cluster, cloud=CLOUDS.get(provider))
