"""What a sweep left behind, read from its files and from MLflow, without what varies by run.

Nothing of the program is imported here: the journal is JSON lines, adapters are safetensors, and
MLflow has a client.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

VARYING = {
    # when and how long
    "time", "seconds", "cost_s", "decided",
    # which run, code and machine
    "sweep_id", "code", "commit", "packages", "python", "platform", "versions",
    # a seal names the sweep's identity
    "adapter_sha256",
    "carried_sha256",
}  # fmt: skip
"""Names of what differs between two runs of the same code; that it is there is still recorded."""
VARIES = "<varies>"
_ID = re.compile(r"\b(m-)?[0-9a-f]{32}\b")


def sweep_record(root: Path, name: str, *, ordered: bool) -> dict[str, Any]:
    """The journal of a sweep and its adapters.

    Args:
        root: What all its paths begin with.
        name: The sweep's.
        ordered: Whether the order of lines across trials is the program's own. In the pool trials
            run side by side, and only the order within each is.

    Returns:
        `verdict`, `events` (of each trial, and of the sweep itself under ""), `adapters` and,
        where it is told, `order`.
    """
    folder = root / "runs" / name
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    events: dict[str, list[Any]] = {}
    for line in lines:
        kept = {k: v for k, v in line.items() if k not in {"n", "time", "sum"}}
        events.setdefault(str(line.get("trial", "")), []).append(normalised(kept, root))
    verdict = [line for line in lines if line["event"] == "sweep_ended"][-1]
    adapters = {
        trial: adapter_record(folder / line["adapter"])
        for trial, line in _last(lines, "trial_ended").items()
        if line.get("adapter")
    }
    found = {
        "verdict": {key: verdict[key] for key in ("champion", "front", "runner_up", "reason")},
        "events": events,
        "adapters": adapters,
    }
    if ordered:
        found["order"] = [[line["event"], line.get("trial", "")] for line in lines]
    return found


def _last(lines: list[dict[str, Any]], event: str) -> dict[str, dict[str, Any]]:
    return {line["trial"]: line for line in lines if line["event"] == event}


def adapter_record(folder: Path) -> dict[str, Any]:
    """What an adapter's files hold.

    Args:
        folder: The adapter's.

    Returns:
        `files`, and of each tensor file the norm of each tensor and a hash of all of its bytes.
    """
    import numpy as np
    from safetensors.numpy import load_file

    found: dict[str, Any] = {"files": sorted(path.name for path in folder.iterdir())}
    for file in sorted(folder.glob("*.safetensors")):
        digest, norms = hashlib.sha256(), {}
        for name, tensor in sorted(load_file(file).items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
            norms[name] = float(np.sqrt(np.square(tensor.astype(np.float64)).sum()))
        found[file.name] = {"norms": norms, "bits": digest.hexdigest()}
    return found


def mlflow_record(root: Path) -> dict[str, Any]:
    """What MLflow holds.

    Args:
        root: Its storage folder is `runs` in it.

    Returns:
        `runs`, `models` and `registered` by name.
    """
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(f"sqlite:///{root / 'runs' / 'mlflow.db'}")
    experiments = client.search_experiments(view_type=ViewType.ALL)
    places = [experiment.experiment_id for experiment in experiments]
    runs = client.search_runs(places, run_view_type=ViewType.ALL, max_results=1000)
    models = client.search_logged_models(places, max_results=1000)
    by_id = {e.experiment_id: e.name for e in experiments}
    return normalised({
        "experiments": sorted(by_id.values()),
        "runs": {_run_name(by_id, run): _run_record(client, run, root) for run in runs},
        "models": {
            f"{by_id[m.experiment_id]}/{m.name}": [str(m.status), _texts(m.tags), dict(m.params)]
            for m in models
        },
        "registered": {
            model.name: {
                "aliases": dict(model.aliases), "tags": _texts(model.tags),
                "numbered": [
                    {"version": str(v.version), "tags": _texts(v.tags), "status": v.status}
                    for v in client.search_model_versions(f"name = '{model.name}'")
                ],
            }
            for model in client.search_registered_models()
        },
    }, root)  # fmt: skip


def _run_name(experiments: Mapping[str, str], run: Any) -> str:
    return f"{experiments[run.info.experiment_id]}/{run.info.run_name}"


def _run_record(client: Any, run: Any, root: Path) -> dict[str, Any]:
    series = {
        key: [[point.step, point.value] for point in _in_order(client, run.info.run_id, key)]
        for key in sorted(run.data.metrics)
    }
    names = sorted(_artifacts(client, run.info.run_id, None))
    return {
        "status": run.info.status,
        "stage": run.info.lifecycle_stage,
        "parameters": dict(sorted(run.data.params.items())),
        "tags": _texts(run.data.tags),
        "metrics": series,
        "artifacts": {name: _artifact(client, run.info.run_id, name, root) for name in names},
    }


def _in_order(client: Any, run: str, key: str) -> list[Any]:
    return sorted(client.get_metric_history(run, key), key=lambda p: (p.step, p.value))


def _artifacts(client: Any, run: str, place: str | None) -> Iterator[str]:
    for found in client.list_artifacts(run, place):
        if found.is_dir:
            yield from _artifacts(client, run, found.path)
        else:
            yield found.path


def _artifact(client: Any, run: str, name: str, root: Path) -> Any:
    """What a JSON document holds; of others (pictures, pages with seconds in them) the name."""
    if not name.endswith(".json"):
        return "<there>"
    text = Path(client.download_artifacts(run, name)).read_text(encoding="utf-8")
    return hashlib.sha256(
        json.dumps(normalised(json.loads(text), root), sort_keys=True).encode()
    ).hexdigest()


def _texts(tags: Mapping[str, str]) -> dict[str, Any]:
    """Tags by name, JSON among them opened; without hashes of texts that name this run's folder."""
    return {k: _opened(v) for k, v in sorted(tags.items()) if ".sha256." not in k}


def _opened(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, dict | list) else text


def normalised(value: Any, root: Path, name: str = "") -> Any:
    """A document without what varies by run.

    Args:
        value: JSON.
        root: The folder of this run.
        name: Under which it stands.

    Returns:
        The same with times, identities, versions, paths and the machine's name replaced.
    """
    if name.rpartition("/")[2].rpartition(".")[2] in VARYING and value is not None:
        return VARIES
    if isinstance(value, Mapping):
        return {str(key): normalised(inner, root, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [normalised(inner, root) for inner in value]
    if isinstance(value, str):
        text = value.replace(str(root.resolve()), "<root>").replace(str(root), "<root>")
        return _ID.sub("<id>", text.replace(socket.gethostname(), "<host>"))
    return value
