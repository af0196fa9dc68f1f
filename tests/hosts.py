"""Hosts of tests: each has a network, processes, a name and a `/tmp` of its own, and one switch.

They are namespaces of Linux, so that what differs between machines differs here, too: addresses,
process ids, `/tmp`, `/dev/shm`, what the own name resolves to. The machine's own network is not
touched: the switch is in a namespace as well. With a namespace goes all that is in it.
"""

import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set where a Ray is for its machine alone."""
REQUIRED = "ORCHESTRATOR_TEST_HOSTS"
"""Set to `required` where it is a failure that hosts cannot be made."""
ROOT = Path(__file__).parents[1]
NETWORK = "10.77.0"
MOST = 8
"""Hosts at one switch."""
START_SECONDS = 240
"""For a node of Ray, on a machine that may be busy."""
STARTED = "Ray runtime started"
KEEP = 'while :; do "$@"; sleep 2; done'
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1",
    "RAY_worker_niceness": "0",
}  # fmt: skip
"""Of whatever runs on a host."""
PROGRAMS = {
    "dashboard/dashboard.py": "dashboard.py", "dashboard/agent.py": "ray::DashboardAgent",
    "runtime_env/agent/main.py": "ray::RuntimeEnvAgent", "_worker.py": "ray::IDLE",
    "autoscaler/_private/monitor.py": "monitor.py", "autoscaler/v2/monitor.py": "monitor.py",
    "ray.util.client.server": "ray_client_server", "-m orchestrator": "driver",
}  # fmt: skip
"""What a process of Python is, by a part of its command, until it gives itself a name."""
LISTENING = """
import json, psutil
from tests.hosts import listening
print(json.dumps([(name, where.ip) for name, where in listening(psutil.process_iter())]))
"""
DEBIAN_HOSTS = "127.0.0.1 localhost\n127.0.1.1 {name}\n"
"""As the installer of Debian writes it: a name leads to no address that others could use."""
REAPER = "trap : TERM; while :; do sleep 3600 & wait; done"
"""The first process of a host takes in those that have lost their parents."""


def missing():
    """Why no hosts can be made here; empty where they can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    programs = ("ip", "tc", "unshare", "nsenter", "mount")
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian's `iproute2` and `util-linux`)"
    made = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "sh",
         "-c", "ip link add try0 type veth peer name try1 && ip link add br0 type bridge"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if made.returncode == 0 else f"no namespaces: {made.stderr.strip()[-200:]}"


class Namespaces:
    """Some namespaces, and the process that holds them: with it goes all that is in them."""

    def __init__(self, kinds, setup):
        words = [f"--{kind}" for kind in kinds]
        fork = ["--pid", "--fork", "--kill-child=KILL", "--mount-proc"] if "mount" in kinds else []
        self._enter = [*words, "--pid"] if fork else words
        self._holder = subprocess.Popen(
            ["unshare", *words, *fork, "sh", "-ec", f"{setup}\necho made\n{REAPER}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        if self._holder.stdout.readline() != "made\n":
            self._holder.kill()
            raise RuntimeError(f"no namespaces: {self._holder.stderr.read()}")
        self.pid = _only_child(self._holder.pid) if fork else self._holder.pid

    def words(self, *command):
        """A command as it is given from outside."""
        return ["nsenter", "--target", str(self.pid), *self._enter, "--", *map(str, command)]

    def run(self, *command, **options):
        """Run a command in them to its end; what it wrote."""
        done = subprocess.run(
            self.words(*command), capture_output=True, text=True, check=False, **options
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def end(self):
        """Kill all that is in them, where they hold processes, and let go of them."""
        if self._holder.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._holder.wait(30)
        self._holder.stdout.close()
        self._holder.stderr.close()


def _only_child(pid):
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class Host:
    """A machine of its own, as far as its programs can see."""

    def __init__(self, number, switch, folder, shared):
        self.number = number
        self.name, self.address = f"host-{number}", f"{NETWORK}.{number}"
        self.folder, self._switch, self._port = folder, switch, f"port{number}"
        self.shared, self._running = shared, []
        self._boot()

    def _boot(self):
        own = self.folder / "tmp"
        (own / "work").mkdir(parents=True, exist_ok=True)
        (self.folder / "hosts").write_text(DEBIAN_HOSTS.format(name=self.name))
        (self.folder / "resolv.conf").write_text("")
        # What lies below `/tmp` and is to be seen: put into the own one before that covers it.
        seen = [path for path in (self.shared, ROOT, Path(sys.prefix)) if _below_tmp(path)]
        binds = []
        for path in seen:
            place = own / path.relative_to("/tmp")
            place.mkdir(parents=True, exist_ok=True)
            binds.append(f"mount --rbind {shlex.quote(str(path))} {shlex.quote(str(place))}")
        quoted = shlex.quote(str(self.folder))
        self.spaces = Namespaces(
            ("net", "mount", "uts", "ipc"),
            "\n".join([
                "mount --make-rprivate /", f"hostname {self.name}",
                f"mount --bind {quoted}/hosts /etc/hosts",
                f"mount --bind {quoted}/resolv.conf /etc/resolv.conf",
                "mount -t tmpfs -o size=2g shm /dev/shm",
                f"cd {quoted}", *binds, "mount --rbind tmp /tmp", "cd /", "ip link set lo up",
            ]),
        )  # fmt: skip
        add = f"ip link add {self._port} type veth peer name eth0 netns {self.spaces.pid}"
        self._switch.run("sh", "-ec", f"{add}; ip link set {self._port} master br0 up")
        # Neighbours are known for good: a link that is cut then answers nothing, not "no route".
        known = "; ".join(
            f"ip neigh add {NETWORK}.{n} lladdr {_mac(n)} nud permanent dev eth0"
            for n in range(1, MOST + 1)
            if n != self.number
        )
        mac = f"ip link set eth0 address {_mac(self.number)} up"
        add = f"ip addr add {self.address}/24 dev eth0"
        self.spaces.run("sh", "-ec", f"{add}; {mac}; {known}")

    def start(self, *command, log, environment=None):
        """Start a command; what it prints goes into a file of the host's folder."""
        with (self.folder / log).open("a") as file:
            process = subprocess.Popen(
                self.spaces.words("env", "--chdir=/tmp/work", *command),
                env=self._environment(environment), stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._running.append(process)
        return process

    def _environment(self, more):
        # The Ray of the tests, which is for one machine alone, may run in this process.
        ours = {k: v for k, v in os.environ.items() if k != ONE_MACHINE}
        return {**ours, "TMPDIR": "/tmp", "PYTHONPATH": str(ROOT), **(more or {})}

    def said(self, log):
        """What a command has printed so far."""
        return (self.folder / log).read_text()

    # ------------------------------------------------------------------------- what may befall it

    def cut(self):
        """Let its link drop whatever it is given, silently: no end of a connection is seen."""
        # Nobody is behind the port then; the host's own end stays up, as at a broken switch.
        self._switch.run("ip", "link", "set", self._port, "nomaster")

    def heal(self):
        """Let the link pass everything again."""
        self._switch.run("ip", "link", "set", self._port, "master", "br0")

    def slow(self, kilobits):
        """Let its link pass no more than so many thousand bits a second, either way."""
        words = f"root tbf rate {kilobits}kbit burst 16kb latency 2s".split()
        self._switch.run("tc", "qdisc", "replace", "dev", self._port, *words)
        self.spaces.run("tc", "qdisc", "replace", "dev", "eth0", *words)

    def kill(self):
        """End it and all of its processes at once, as a machine whose power fails."""
        self.spaces.end()
        for process in self._running:
            process.wait(30)
        self._running = []

    def boot_again(self):
        """Start it once more, with the same name, address and disk."""
        self._boot()


def _mac(number):
    return f"02:00:0a:4d:00:{number:02x}"


def listening(processes):
    """Which of some processes listen, by what they are, and where."""
    import psutil

    found = []
    for process in processes:
        try:
            words, name = process.cmdline(), process.name()
            sockets = process.net_connections("tcp")
        except psutil.Error:
            continue
        title = " ".join(words)
        if title.startswith("ray::"):
            name = title.split()[0]
        elif name.startswith("python"):  # raylets have the commands of others in theirs
            name = next((what for part, what in PROGRAMS.items() if part in title), name)
        found += [(name, each.laddr) for each in sockets if each.status == psutil.CONN_LISTEN]
    return [(name, where._replace(ip=where.ip.removeprefix("::ffff:"))) for name, where in found]


def _below_tmp(path):
    return path.is_relative_to("/tmp")


class RayOnHosts:
    """A cluster of Ray whose head is on the first host, and which asks for a token."""

    def __init__(self, machines, *, node_cpus=1, nodes=(), kept=False):
        """Start the head, which holds no workers, then nodes on `nodes`, or on all the others.

        A node that is `kept` is started again where it has ended, as a service manager does.
        """
        self.head, self.address = machines[0], f"{machines[0].address}:6379"
        token = machines[0].shared / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {
            **ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
        }  # fmt: skip
        self._node_cpus, self._kept, self._head_process = node_cpus, kept, None
        head = ["--head", "--port=6379", "--dashboard-host=127.0.0.1"]
        self._start(self.head, 0, head)
        for host in nodes or machines[1:]:
            self.add(host)

    def add(self, host):
        """Start a node on a host."""
        self._start(host, self._node_cpus, [f"--address={self.address}"])

    def _start(self, host, cpus, words):
        keep = ["sh", "-c", KEEP, "keep"] if self._kept and host is not self.head else []
        before = host.said("ray.log").count(STARTED) if (host.folder / "ray.log").is_file() else 0
        command = [
            *keep, sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
            "--disable-usage-stats", f"--num-cpus={cpus}", f"--node-ip-address={host.address}",
            "--object-store-memory=100000000", *words,
        ]  # fmt: skip
        # Ray gives a node thirty seconds to start, which a busy machine may not have for it.
        if not any(self._started(host, command, before) for _ in range(3)):
            raise AssertionError(host.said("ray.log"))

    def _started(self, host, command, before):
        process = host.start(*command, log="ray.log", environment=self.environment)

        def over():
            gone = self._head_process is not None and self._head_process.poll() is not None
            assert not gone, self.head.said("ray.log")
            return process.poll() is not None or host.said("ray.log").count(STARTED) > before

        wait_until(over, START_SECONDS, lambda: host.said("ray.log"))
        if self._head_process is None:
            self._head_process = process if process.poll() is None else None
        return process.poll() is None

    def sweep(self, file, *words, log):
        """Start the command of a sweep on the head, which finds out that a token is asked for."""
        environment = {k: v for k, v in self.environment.items() if k != "RAY_AUTH_MODE"}
        return self.head.start(
            sys.executable, "-m", "orchestrator", "sweep", file, "--address", self.address, *words,
            log=log, environment=environment,
        )  # fmt: skip

    def listening(self, host):
        """Which processes listen on a host for others than itself: (name, address)."""
        words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", LISTENING]
        found = json.loads(host.spaces.run(*words))
        return {(name, ip) for name, ip in found if not ip.startswith("127.")}


@contextmanager
def hosts(folder, count):
    """Make so many hosts, which share `folder/shared` at one path; end all that was made."""
    shared = folder / "shared"
    shared.mkdir(parents=True, exist_ok=True)
    switch = Namespaces(("net",), "ip link add br0 type bridge; ip link set br0 up")
    made = []
    try:
        for number in range(1, count + 1):  # one by one: what was made is ended if one fails
            made += [Host(number, switch, folder / f"host-{number}", shared)]
        yield made
    finally:
        for host in made:
            host.kill()
        switch.end()


def wait_until(true, seconds, what):
    """Wait until something holds, or fail with what `what` gives."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def reported(lines):
    """What each trial came to by a journal, without what it cost in seconds."""
    losses, ended = {}, {}
    for line in lines:
        if line["event"] == "stage_report" and line["trial"] != "base":
            losses.setdefault(line["trial"], []).append(line["report"]["losses"])
        elif line["event"] == "trial_ended":
            measures = (line["measures"] or {}).items()
            kept = {name: value for name, value in measures if not name.startswith("cost_s")}
            ended[line["trial"]] = (line["state"], kept)
    return {name: (ended.get(name), found) for name, found in losses.items()}
