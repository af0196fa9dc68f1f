"""Ray clusters of tests with processes of their own, which may grow by themselves.

Ray's own `AutoscalingCluster` begins with `ray stop --force`, which would end every other Ray of
the machine; the node provider behind it is used here with a head that the test starts and ends.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil

RAY = Path(sys.executable).with_name("ray")
ENVIRONMENT = {
    # Both sides of the connection must agree on authentication; the token is not under test.
    "RAY_AUTH_MODE": "disabled",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    # Nodes of the provider take this machine's address then, which is another than the head's.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray",
            "worker_start_ray")  # fmt: skip
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


class OwnCluster:
    """A running head, and the nodes that its autoscaler has added."""

    def __init__(self, process, address, environment):
        self.process, self.address, self.environment = process, address, environment
        self.counts = []
        """How many nodes there were beside the head, each time that changed."""
        self._over = threading.Event()
        self._counter = threading.Thread(target=self._count, daemon=True)
        self._counter.start()

    def nodes(self):
        """How many raylets run beside the head's own."""
        try:
            own = psutil.Process(self.process.pid).children(recursive=True)
            return max(0, sum(child.name() == "raylet" for child in own) - 1)
        except psutil.Error:
            return 0

    def _count(self):
        while not self._over.wait(0.5):
            now = self.nodes()
            if not self.counts or self.counts[-1] != now:
                self.counts.append(now)

    def wait_for(self, nodes, seconds):
        """Wait until there are so many nodes beside the head; whether they came."""
        deadline = time.monotonic() + seconds
        while self.nodes() != nodes and time.monotonic() < deadline:
            time.sleep(0.5)
        return self.nodes() == nodes

    def stop(self):
        self._over.set()
        self._counter.join()
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:  # it could not start, and has said why
            return
        for process in [*children, self.process]:
            process.kill()
        psutil.wait_procs(children, timeout=30)
        self.process.wait(30)


@contextmanager
def own_cluster(folder, *, cpus, node_cpus=0, most_nodes=0, idle_minutes=0.05):
    """A cluster of one head with so many CPUs, which adds up to `most_nodes` nodes when asked."""
    folder.mkdir()
    port = 20000 + os.getpid() % 20000
    words = ["--head", f"--port={port}", f"--num-cpus={cpus}", "--dashboard-port=0",
             "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]  # fmt: skip
    if most_nodes:
        config = {
            "cluster_name": "fake", "max_workers": most_nodes, "upscaling_speed": 100.0,
            "idle_timeout_minutes": idle_minutes,
            "provider": {"type": "external", "module": PROVIDER, "launch_multiple": True,
                         "gcs_address": f"127.0.0.1:{port}", "use_node_id_as_ip": True,
                         "disable_node_updaters": True, "disable_launch_config_check": True},
            "auth": {}, "file_mounts": {}, "cluster_synced_files": [],
            "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
            **{f"{when}_commands": [] for when in COMMANDS},
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {
                    "resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0,
                },
                "worker": {
                    "resources": {"CPU": node_cpus}, "node_config": {}, "min_workers": 0,
                    "max_workers": most_nodes,
                },
            },
        }  # fmt: skip
        file = folder / "autoscaling.json"
        file.write_text(json.dumps(config))
        words.append(f"--autoscaling-config={file}")
    environment = {**os.environ, **ENVIRONMENT}
    # Sockets need short paths.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as sockets:
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [RAY, "start", "--block", "--disable-usage-stats", f"--temp-dir={sockets}", *words],
                cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        cluster = OwnCluster(process, f"127.0.0.1:{port}", environment)
        try:
            deadline = time.monotonic() + 240
            while "Ray runtime started" not in (folder / "log").read_text():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            yield cluster
        finally:
            cluster.stop()
