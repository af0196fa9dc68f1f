"""What every cluster of ours is, said once for all files that describe one."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass

from orchestrator.system.user_error import UsageError

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class ClusterDescription:
    """A head that computes nothing, and workers with one GPU each that come and go."""

    name: str = "curlora-sweeps"
    workers: int = 8
    """At most, over all types of nodes."""
    worker_cpus: int = 8
    worker_memory_gb: int = 30
    """Of a node of 32 GB, what Kubernetes leaves to a pod."""
    head_memory_gb: int = 16
    idle_minutes: int = 10
    mount: str = "/mnt/sweeps"
    """Where all nodes see the shared storage."""
    python: str = "3.11"
    user: str = "ubuntu"
    port: int = 6379
    object_port: int = 8076

    def __post_init__(self) -> None:
        """Refuse what a cloud would refuse later.

        Raises:
            UsageError: If the name or the number of workers is not possible.
        """
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"`--name` should be 1 to 40 small letters, digits and hyphens, beginning with a "
                f"letter, as clouds want it; got {self.name!r}."
            )
        if not 1 <= self.workers <= 1000:
            raise UsageError(f"`--workers` should be from 1 to 1000, got {self.workers}.")

    @property
    def ray_version(self) -> str:
        """Of the Ray that is installed here, which the cluster must have, too."""
        return importlib.metadata.version("ray")


@dataclass(frozen=True)
class Cloud:
    """What a cloud calls things, where `ray up` starts nodes."""

    name: str
    title: str
    client: str
    """Python package that Ray starts nodes with."""
    credentials: str
    larger_head: str
    share_words: str
    """The shared storage in words."""
    share: str
    """Its address."""
    mount_words: str
    """Kind and options of the mount."""
    head_machine: str = ""
    gpu_machine: str = ""


CLOUDS = {
    "aws": Cloud(
        name="aws",
        title="AWS",
        client="boto3",
        credentials="AWS credentials as boto3 finds them",
        larger_head="m6i.2xlarge",
        share_words="an EFS file system",
        share="fs-00000000000000000.efs.us-east-1.amazonaws.com:/",
        mount_words="nfs4 -o nfsvers=4.1,hard,timeo=600,_netdev",
    ),
    "gcp": Cloud(
        name="gcp",
        title="Google Cloud",
        client="google-api-python-client",
        credentials="credentials of `gcloud auth application-default login`",
        larger_head="n2-standard-8",
        share_words="a Filestore share",
        share="10.00000000:/sweeps",
        mount_words="nfs -o hard,timeo=600,_netdev",
        head_machine="n2-standard-4",
        gpu_machine="g2-standard-8",
    ),
}
