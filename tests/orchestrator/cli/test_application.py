import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from orchestrator import cli
from orchestrator.cli import app, errors
from orchestrator.records.events import read_event
from orchestrator.records.journal import Journal
from orchestrator.spec.experiment import Experiment
from orchestrator.system.seals import seal
from orchestrator.system.user_error import UserError
from tests.journals import say

ROOT = Path(__file__).parents[3]
EXPERIMENT = """\
name: demo
model: {name: some/model}
tasks: [colour]
method: {adapter: {kind: lora, r: 4}}
training: {learning_rate: 1.0e-3}
search:
  space:
    method.adapter.r: {choice: [4, 8]}
  trials: 2
objectives: {gain: max}
champion: {maximize: gain, subject_to: {}}
storage: %s
"""
TASK = """\
name: colour
kind: classification
data: {files: data}
prompt: "{text} is"
labels: {"0": " red", "1": " blue"}
"""
TASKS = {
    "colour": {
        "name": "colour",
        "data": {"files": "colour.csv"},
        "kind": "classification",
        "prompt": "{text} is",
        "labels": {"0": " red", "1": " blue"},
    },
    "pair": {
        "kind": "classification",
        "prompt": "{first} / {second}:",
        "labels": {"0": " a", "1": " b"},
    },
    "choice": {
        "kind": "multiple_choice",
        "prompt": "{question}",
        "choices_column": "choices",
    },
    "text": {"kind": "language_modelling"},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "colour.yaml").write_text(TASK)
    (tmp_path / "demo.yaml").write_text(EXPERIMENT % "./runs")
    return tmp_path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result, *parts):
    """A user's mistake: one message on stderr, exit code 2, no traceback, nothing on stdout."""
    assert result.exit_code == errors.MISTAKE, result.output
    assert isinstance(result.exception, SystemExit)
    assert not result.stdout
    assert result.stderr.count("orchestrate: ") == 1
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def document():
    return Experiment.model_validate({
        "name": "demo",
        "model": {"name": "m"},
        "tasks": ["colour"],
        "method": {"adapter": {"kind": "lora"}},
        "search": {"space": {"method.adapter.r": {"choice": [4, 8]}}, "trials": 2},
    }).model_dump(mode="json")  # fmt: skip


def write_sweep(storage, name="demo", trials=("t001", "t002"), state="COMPLETE", ended=True):
    folder = storage / name
    with Journal(folder) as journal:
        say(
            journal, "sweep_opened", sweep=name, kind="sweep", experiment=document(), yaml="",
            tasks=TASKS, origin="demo.yaml", provenance={"base": {"sha256": "0" * 64}}, controls={},
        )  # fmt: skip
        for number, trial in enumerate(trials):
            adapter = folder / "trials" / trial / "adapter"
            adapter.mkdir(parents=True)
            (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
            (adapter / "adapter_model.safetensors").write_bytes(b"weights")
            overrides = {"method.adapter.r": 4 * (number + 1)}
            say(journal, "trial_proposed", trial=trial, overrides=overrides, by="tpe")
            say(journal, "trial_started", trial=trial, attempt=1)
            row = {"task": "colour", "task_index": 0, "fraction": 1.0, "row": [0.8], "step": 1,
                   "steps": 1}  # fmt: skip
            say(journal, "stage_report", trial=trial, report=row)
            say(
                journal, "trial_ended", trial=trial, state=state, reason="", log=None,
                measures={"gain": 0.1 * (number + 1)}, gain_interval=[0.05, 0.3],
                adapter=f"trials/{trial}/adapter" if state == "COMPLETE" else None,
            )  # fmt: skip
        if ended:
            best = trials[-1] if state == "COMPLETE" else None
            say(
                journal,
                "sweep_ended",
                front=[best] if best else [],
                champion=best,
                reason="largest gain",
            )
        return folder, list(journal.lines)


class InterruptedSweepError(RuntimeError):
    pass


class SweepError(UserError, RuntimeError):
    pass


@pytest.fixture
def sweeps(monkeypatch, project):
    """A stand-in for `orchestrator.sweep`; `sweeps.run` says what a sweep does."""
    calls = []

    def options(**fields):
        return SimpleNamespace(**fields)

    def run_sweep(loaded, chosen, observer):
        calls.append((loaded, chosen))
        return fake.run(loaded, chosen, observer)

    def complete(loaded, chosen, observer):
        folder, lines = write_sweep(Path(loaded.experiment.storage))
        for line in lines:
            observer.event(read_event(line))
        return SimpleNamespace(folder=folder, lines=lines, complaint="")

    fake = SimpleNamespace(
        SweepOptions=options, run_sweep=run_sweep, SweepInterruptedError=InterruptedSweepError,
        SweepError=SweepError, calls=calls, run=complete,
    )  # fmt: skip
    for part in ("errors", "run", "run_options"):
        monkeypatch.setitem(sys.modules, f"orchestrator.sweep.{part}", fake)
    return fake


# --- a mistake is answered at once ---


@pytest.mark.parametrize("command", ["plan", "run", "sweep"])
def test_misspelt_field_is_named_with_the_nearest_one(project, command):
    wrong = (EXPERIMENT % "./runs").replace("learning_rate: 1", "learning_rat: 1")
    (project / "demo.yaml").write_text(wrong)
    refused(call(command, "demo.yaml"), "demo.yaml: training.learning_rat", "'learning_rate'")
    assert not (project / "runs").exists()


def quick(project, *words):
    code = (
        "import sys; from orchestrator import cli\n"
        f"try: cli.app({[str(word) for word in words]!r})\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'datasets', 'deepspeed'}\n"
        "sys.exit(90 if heavy & set(sys.modules) else code or 0)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Seconds of a core, because other programs may have the cores for a moment.
    return result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["sweep", "wrong.yaml"], 2),
        (["methods"], 0),
        (["runs", "list"], 0),
        (["runs", "show", "x"], 2),
    ],
)
def test_light_commands_import_nothing_heavy_and_answer_at_once(project, words, code):
    (project / "wrong.yaml").write_text((EXPERIMENT % "./runs").replace("tasks:", "task:"))
    write_sweep(project / "runs")
    result, seconds = quick(project, *words)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert seconds < 1.5


def test_missing_file_and_missing_data_root_are_refused(project):
    refused(call("sweep", "none.yaml"), "none.yaml: no such file.")
    refused(call("sweep", "demo.yaml", "--data-root", "nowhere"), "nowhere is no folder")


def test_sweep_without_a_search_points_to_run(project):
    text = EXPERIMENT % "./runs"
    (project / "demo.yaml").write_text(text[: text.index("search:")] + "objectives: {gain: max}\n"
                                       "champion: {maximize: gain, subject_to: {}}\n")  # fmt: skip
    refused(call("sweep", "demo.yaml"), "no `search`", "orchestrate run demo.yaml")


def test_unexpected_errors_keep_their_traceback(sweeps):
    def broken(loaded, options, observer):
        raise KeyError("a bug")

    sweeps.run = broken
    result = call("sweep", "demo.yaml")
    assert isinstance(result.exception, KeyError)


def test_sweep_errors_are_one_message(sweeps):
    def refuse(loaded, options, observer):
        observer.note("starting Ray")
        raise SweepError("One trial does not fit: it needs 8 CPUs.")

    sweeps.run = refuse
    refused(call("sweep", "demo.yaml"), "orchestrate: One trial does not fit")


# --- running ---


def test_sweep_prints_its_outcome_on_stdout_and_its_progress_on_stderr(sweeps):
    result = call("sweep", "demo.yaml", "--new", "--address", "auto")
    assert result.exit_code == 0, result.output
    assert "Champion t002: largest gain." in result.stdout
    _, options = sweeps.calls[0]
    assert (options.kind, options.new, options.address) == ("sweep", True, "auto")


def test_json_is_the_last_line_of_stdout(sweeps):
    result = call("run", "demo.yaml", "--json")
    assert result.exit_code == 0
    parsed = json.loads(result.stdout.splitlines()[-1])
    assert parsed["champion"] == "t002"
    assert len(result.stdout.splitlines()) == 1
    assert "Champion t002" in result.stderr
    assert sweeps.calls[0][1].kind == "run"


def test_data_root_may_come_from_the_environment(sweeps, project, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_DATA_ROOT", str(project))
    assert call("sweep", "demo.yaml").exit_code == 0
    assert sweeps.calls[0][1].data_root == project


@pytest.mark.parametrize("stop", [KeyboardInterrupt, InterruptedSweepError])
def test_ctrl_c_says_what_is_kept_and_how_to_continue(sweeps, stop):
    def interrupt(loaded, options, observer):
        _, lines = write_sweep(Path("runs"), trials=("t001",), ended=False)
        for line in lines:
            observer.event(read_event(line))
        raise stop

    sweeps.run = interrupt
    result = call("sweep", "demo.yaml", "--new", "--address", "auto")
    assert result.exit_code == errors.INTERRUPTED
    assert "1 of 2 trials are finished and kept in runs/demo" in result.stderr
    assert "orchestrate sweep demo.yaml --address auto\n" in result.stderr
    assert "Traceback" not in result.stderr


def test_sweep_in_which_no_trial_was_completed_fails(sweeps):
    def fail(loaded, options, observer):
        folder, lines = write_sweep(Path("runs"), state="FAILED")
        return SimpleNamespace(folder=folder, lines=lines, complaint="")

    sweeps.run = fail
    result = call("sweep", "demo.yaml")
    assert result.exit_code == errors.FAILED
    assert "no trial was completed" in result.stderr


# --- starting ---


def test_of_every_command_is_known_which_module_registers_it():
    waiting, found = [("", typer.main.get_command(app))], {}
    while waiting:
        name, command = waiting.pop()
        below = getattr(command, "commands", {})
        waiting += [(f"{name} {word}".strip(), inner) for word, inner in below.items()]
        if not below:
            found[name] = command.callback.__module__.removeprefix("orchestrator.cli.")
    for name, module in found.items():
        assert module in cli._modules_for([*name.split(), "demo"])
        assert len(cli._modules_for(name.split()[:1])) < len(set(found.values())), name
    assert cli._modules_for(["runs", "list", "--json"]) == ["listing.command"]


def test_a_list_loads_nothing_that_takes_time(project):
    write_sweep(project / "runs")
    call("runs", "list")
    code = (
        "import sys\nfrom orchestrator.cli import main\nsys.argv = ['orchestrate', 'runs', 'list', "
        "'demo', '--filter', 'gain>0']\ntry: main()\nexcept SystemExit as e: assert not e.code\n"
        "heavy = {'torch', 'pandas', 'numpy', 'mlflow', 'orchestrator.spec.experiment'}\n"
        "print(sorted(heavy & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project
    )
    assert result.stdout.endswith("[]\n"), result.stdout


# --- looking ---


def test_sweeps_are_listed_oldest_first(project):
    write_sweep(project / "runs", "beta", ended=False)
    write_sweep(project / "runs", "alpha")
    (project / "runs" / "mlartifacts").mkdir()
    result = call("runs", "list")
    assert result.exit_code == 0
    assert result.stdout.index("beta") < result.stdout.index("alpha")
    rows = json.loads(call("runs", "list", "--json").stdout)
    assert [(row["sweep"], row["state"]) for row in rows] == [
        ("beta", "unfinished"),
        ("alpha", "ended"),
    ]


def test_damaged_journal_does_not_hide_the_other_sweeps(project):
    write_sweep(project / "runs", "good")
    write_sweep(project / "runs", "bad")
    journal = project / "runs" / "bad" / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"n":1', '"n":7'))
    result = call("runs", "list")
    assert result.exit_code == 0
    assert "good" in result.stdout
    assert "left out" in result.stderr


def test_no_sweeps_is_said(project):
    result = call("runs", "list")
    assert result.exit_code == 0
    assert "No sweeps in runs" in result.stdout
    assert json.loads(call("runs", "list", "--json").stdout) == []
    refused(call("runs", "list", "--storage", "nope"), "No sweeps in nope, which is no folder.")


def test_trials_of_a_sweep_are_listed(project):
    write_sweep(project / "runs")
    assert "t001" in call("runs", "list", "demo").stdout
    rows = json.loads(call("runs", "list", "demo", "--json").stdout)
    assert [row["settings"]["method.adapter.r"] for row in rows] == [4, 8]


def test_sweep_and_trial_are_shown(project):
    write_sweep(project / "elsewhere")
    assert "Champion t002" in call("runs", "show", "demo", "--storage", "elsewhere").stdout
    shown = call("runs", "show", "demo", "t001", "--storage", "elsewhere")
    assert "method.adapter.r" in shown.stdout
    parsed = json.loads(
        call("runs", "show", "demo", "t001", "--storage", "elsewhere", "--json").stdout
    )
    assert parsed["matrix"]["rows"] == [[None], [0.8]]
    whole = json.loads(call("runs", "show", "demo", "--storage", "elsewhere", "--json").stdout)
    assert whole["champion"] == "t002"


def test_unknown_sweep_and_trial_name_the_nearest(project):
    write_sweep(project / "runs")
    refused(call("runs", "show", "dmeo"), "No sweep 'dmeo' in runs.", "'demo'")
    refused(call("runs", "show", "demo", "t003"), "No trial 't003'", "t001, t002")


# --- choosing, comparing and reporting ---


def test_trials_are_filtered_sorted_and_written_as_csv(project):
    write_sweep(project / "runs")
    shown = call("runs", "list", "demo", "--filter", "gain>0.15 and state=complete")
    assert "t002" in shown.stdout
    assert "t001" not in shown.stdout
    rows = json.loads(call("runs", "list", "--sweep", "demo", "--sort", "-gain", "--json").stdout)
    assert [row["trial"] for row in rows] == ["t002", "t001"]
    written = call("runs", "list", "demo", "--csv", "--sort", "gain").stdout_bytes
    assert [line.split(b",")[0] for line in written.split(b"\r\n")] == [
        b"trial", b"t001", b"t002", b""]  # fmt: skip
    assert b",test_gain,test_gain_low,test_gain_high,core_seconds," in written.split(b"\r\n")[0]
    none = call("runs", "list", "demo", "--filter", "gain>9")
    assert none.exit_code == 0
    assert "None of the 2 trials" in none.stdout


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["demo", "--filter", "gian>0"], ["--filter", "'gain'"]),
        (["demo", "--sort", "rank"], ["--sort", "dotted path"]),
        (["--filter", "gain>0 gain<1"], ["--filter", "at character 8"]),
        (["demo", "--columns", "gian"], ["--columns", "'gain'"]),
        (["dmeo", "--filter", "gain>0"], ["No sweep 'dmeo'", "'demo'"]),
        (["demo", "--json", "--csv"], ["exclude each other"]),
    ],
)
def test_wrong_filters_and_orders_are_refused(project, words, parts):
    write_sweep(project / "runs")
    refused(call("runs", "list", *words), *parts)


def test_trials_of_all_sweeps_are_listed_a_page_at_a_time(project):
    for name in ("demo", "other"):
        write_sweep(project / "runs", name=name)
    shown = call("runs", "list", "--filter", "state=complete or gain>9", "--sort", "-gain",
                 "--limit", "3")  # fmt: skip
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.index("demo/t002") < shown.stdout.index("demo/t001")
    assert "other/t001" not in shown.stdout
    assert "3 of 4 trials; `--limit N` lists N, 0 all." in shown.stderr
    rows = json.loads(call("runs", "list", "--columns", "sweep,trial,gain", "--sort", "gain,-sweep",
                           "--json").stdout)  # fmt: skip
    assert [f"{row['sweep']}/{row['trial']}" for row in rows] == [
        "other/t001", "demo/t001", "other/t002", "demo/t002"]  # fmt: skip
    written = call("runs", "list", "other", "demo", "--csv").stdout
    assert written.startswith("sweep,trial,state,of,")
    chosen = call("runs", "list", "other", "--columns", "gain").stdout
    assert "t002" in chosen
    assert "other/" not in chosen
    assert "the newest 1 of 2 sweeps" in call("runs", "list", "--limit", "1").stderr


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("orchestrate runs ", ["list", "diff", "show"]),
        ("orchestrate runs list o", ["other"]),
        ("orchestrate runs show demo t00", ["t001", "t002"]),
        ("orchestrate runs diff demo/t002 demo/t001 ", []),
        ("orchestrate runs diff other/t", ["other/t001", "other/t002"]),
        ("orchestrate runs list demo --sort gain_", ["gain_low", "gain_high"]),
        ("orchestrate runs list --columns gain,method.adapter.k", ["gain,method.adapter.kind"]),
        ("orchestrate rep", ["reproduce", "report", "repair"]),
    ],
)
def test_words_are_completed_in_the_shell(project, line, proposed):
    for name in ("demo", "other"):
        write_sweep(project / "runs", name=name)
    words = line.split(" ")
    asked = {"_ORCHESTRATE_COMPLETE": "complete_bash", "COMP_WORDS": line,
             "COMP_CWORD": str(len(words) - 1)}  # fmt: skip
    result = CliRunner().invoke(app, [], env=asked, prog_name="orchestrate")
    assert result.stdout.split() == proposed


def test_two_trials_or_two_sweeps_are_compared(project):
    write_sweep(project / "runs")
    write_sweep(project / "runs", name="other", trials=("t001",))
    found = json.loads(call("runs", "diff", "demo/t001", "demo/t002", "--json").stdout)
    assert found["settings"] == {"method.adapter.r": {"left": 4, "right": 8}}
    assert found["measures"]["gain"]["difference"] == pytest.approx(0.1)
    assert "other/t001" in call("runs", "diff", "demo", "other").stdout
    refused(call("runs", "diff", "demo", "other/t001"), "SWEEP/TRIAL")
    refused(call("runs", "diff", "demo/t001", "demo/t003"), "'t003'", "t001, t002")


def test_report_without_mlflow_is_written_all_the_same(project):
    write_sweep(project / "runs")
    result = call("report", "demo", "--output", "pages", "--tracking-uri", "folder")
    assert result.exit_code == 0
    assert (project / "pages" / "index.html").is_file()
    assert "Not attached to MLflow" in result.stderr
    assert "Traceback" not in result.output


def test_report_of_a_running_sweep_leaves_mlflow_to_it(project):
    folder, _ = write_sweep(project / "runs", ended=False)
    with Journal(folder):
        result = call("report", "demo")
    assert result.exit_code == 0
    assert (folder / "report" / "index.html").is_file()
    assert "The sweep is running" in result.stdout
    assert not (project / "runs" / "mlflow.db").exists()


def test_report_and_pages_of_nothing_are_refused(project):
    refused(call("report", "demo"), "No sweep 'demo'")
    refused(call("ui"), "No sweeps in runs")
    write_sweep(project / "runs")
    (project / "file").write_text("")
    refused(call("report", "demo", "--output", "file"), "--output DIR")


# --- using ---


def test_champion_is_shown(project, monkeypatch):
    record = {"model": "demo", "version": "3", "trial": "t002", "registered": 1.7e9,
              "measures": {"gain": 0.2}, "reason": "largest gain [+0.1, +0.3]"}  # fmt: skip
    asked = []
    monkeypatch.setattr(
        "orchestrator.cli.champions.commands.champion_record",
        lambda name, uri, storage: asked.append(uri) or record,
    )
    (project / "runs").mkdir()
    (project / "runs" / "mlflow.db").touch()
    result = call("champion", "show", "demo")
    assert "largest gain [+0.1, +0.3]" in result.stdout
    assert asked == [f"sqlite:///{project / 'runs' / 'mlflow.db'}"]
    assert json.loads(call("champion", "show", "demo", "--json").stdout) == record
    call("champion", "show", "demo", "--tracking-uri", "http://there")
    assert asked[-1] == "http://there"
    monkeypatch.setenv("ORCHESTRATOR_TRACKING_URI", "http://elsewhere")
    call("champion", "show", "demo")
    assert asked[-1] == "http://elsewhere"
    assert "not read" in result.stdout
    record |= {"overrides": {"training.learning_rate": 0.00404267123},
               "test": {"gain": 0.125, "gain_interval": [0.0625, 0.25],
                        "minus": {"majority": [0.125, 0.5]}}}  # fmt: skip
    rows = [line.split() for line in call("champion", "show", "demo").stdout.splitlines()]
    cells = {row[0]: " ".join(row[1:]) for row in rows if row}
    assert cells["overrides.training.learning_rate"] == "4.04267123e-03", "it can be copied"
    assert cells["test.gain"] == "0.125"
    assert cells["test.gain_interval"] == "[+0.062, +0.250]"
    assert cells["test.minus.majority"] == "[+0.125, +0.500]"
    assert list(cells).index("test.gain") < list(cells).index("measures.gain")


@pytest.mark.parametrize("words", [("runs", "list"), ("report", "demo"), ("ui",), ("doctor",)])
def test_a_storage_that_can_hold_no_sweeps_is_refused(project, words):
    result = call(*words, "--storage", "memory://bucket/runs")
    assert result.exit_code == errors.MISTAKE
    said = " ".join(result.stderr.replace("│", " ").split())
    assert "'memory://bucket/runs', and `memory://` keeps no files" in said
    assert not (project / "memory:").exists()


def test_a_champion_without_a_registry_is_that_of_the_journal_and_makes_none(project):
    refused(call("champion", "show", "demo"), "No champion 'demo' in runs", "--storage")
    assert not (project / "runs").exists()
    write_sweep(project / "runs", ended=False)
    refused(call("champion", "show", "demo"), "no verdict has chosen one", "champion promote demo")
    write_sweep(project / "runs", name="other")
    shown = json.loads(call("champion", "show", "other", "--json").stdout)
    assert (shown["reference"], shown["who"], shown["version"]) == ("other/t002", "driver", None)
    assert [row["now"]["value"] for row in shown["knows"]] == [0.8]
    # The index of the journals is made where there is none; the registry is not.
    assert {path.name for path in (project / "runs").iterdir()} == {"cache", "demo", "other"}


def test_trial_is_exported_as_a_model_folder_and_as_lora(project):
    write_sweep(project / "runs")
    result = call("export", "demo/t002", "--as", "adapter", "--to", "out/adapter")
    assert result.exit_code == 0, result.output
    model = json.loads((project / "out/adapter/model.json").read_text())
    assert model["trial"] == "t002"
    assert (project / "out/adapter/adapter/adapter_model.safetensors").read_bytes() == b"weights"
    assert call("export", "demo/t002", "--as", "lora", "--to", "out/lora").exit_code == 0
    assert sorted(path.name for path in (project / "out/lora").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_export_refuses_full_folders_unknown_references_and_failed_trials(project):
    write_sweep(project / "runs", state="FAILED")
    (project / "full").mkdir()
    (project / "full" / "file").touch()
    words = ("--as", "adapter", "--to")
    refused(call("export", "demo/t001", *words, "full"), "not empty")
    refused(call("export", "demo", *words, "a"), "names no model", "NAME@champion")
    refused(call("export", "demo/t009", *words, "b"), "No trial 't009'")
    refused(call("export", "demo/t001", *words, "c"), "has no adapter", "failed")


@pytest.fixture
def predictor(monkeypatch, project):
    asked = []

    class Predictor:
        @classmethod
        def from_folder(cls, folder, *, adapter=True, base=None):
            assert (folder / "model.json").is_file()
            return cls()

        def predict(self, task, rows):
            asked.append((task, rows))
            return [SimpleNamespace(label="1", probabilities={"0": 0.25, "1": 0.75})] * len(rows)

    monkeypatch.setitem(
        sys.modules, "orchestrator.serving.predictor", SimpleNamespace(Predictor=Predictor)
    )
    folder = project / "model"
    folder.mkdir()
    tasks = {name: {"name": name, "data": {"files": "x"}, **spec} for name, spec in TASKS.items()}
    document = {"base": {"name": "m"}, "precision": "fp32", "max_length": 8, "tasks": tasks}
    document |= {"adapter_sha256": "a" * 64}
    (folder / "model.json").write_text(json.dumps(document))
    seal(folder, None)
    (project / "runs").mkdir()
    (project / "runs" / "mlflow.db").touch()
    monkeypatch.setattr("orchestrator.serving.find.resolve", lambda reference, uri, storage: folder)
    return asked


def test_texts_are_judged(predictor):
    words = ("predict", "demo@champion", "--task", "colour", "The sky", "[a] rose")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert "0.750" in result.stdout
    assert "[a] rose" in result.stdout
    assert predictor == [("colour", [{"text": "The sky"}, {"text": "[a] rose"}])]
    parsed = json.loads(call(*words, "--json").stdout)
    assert parsed["predictions"][0]["probabilities"] == {"0": 0.25, "1": 0.75}


def test_tasks_with_several_columns_take_them_by_name(predictor):
    call("predict", "demo@champion", "--task", "pair", "--column", "first=x=1", "y")
    call("predict", "demo@champion", "--task", "choice", "--column", 'choices=["a", "b"]', "Which?")
    assert predictor == [
        ("pair", [{"first": "x=1", "second": "y"}]),
        ("choice", [{"choices": ["a", "b"], "question": "Which?"}]),
    ]


def test_wrong_tasks_and_columns_are_named(predictor):
    start = ("predict", "demo@champion")
    refused(call(*start, "x"), "`--task` should be one of colour, pair, choice")
    refused(call(*start, "--task", "color", "x"), "got 'color'", "Did you mean 'colour'?")
    refused(call(*start, "--task", "pair", "x"), "reads the columns first, second")
    refused(call(*start, "--task", "colour"), "give a text for the column 'text'")
    refused(call(*start, "--task", "pair", "--column", "frist=x", "y"), "Did you mean 'first'?")
    refused(call(*start, "--task", "choice", "--column", "choices=a", "y"), "JSON list")
    assert predictor == []


# --- the rest ---


def test_help_names_every_command():
    text = call("--help").stdout
    for command in ("plan", "run", "sweep", "runs", "champion", "export", "predict", "doctor"):
        assert command in text


def test_version_is_printed():
    assert call("--version").exit_code == 0
    assert call("--version").stdout.strip()


def test_doctor_reports_for_people_and_programs_and_fails_only_on_failures(project, monkeypatch):
    from orchestrator.planning.doctor import check, examine

    checks = [check.Check("Python", "PASS", "3.11"), check.Check("Disk", "WARN", "full", "Free")]
    monkeypatch.setattr(examine, "examine", lambda storage, build: checks)
    assert call("doctor").exit_code == 0
    assert json.loads(call("doctor", "--json").stdout)["status"] == "WARN"
    checks.append(check.Check("ninja", "FAIL", "missing", "Install it."))
    result = call("doctor")
    assert result.exit_code == errors.FAILED
    assert "Install it." in result.stdout


def test_methods_are_listed_for_people_and_programs(monkeypatch):
    from curlora import ADAPTERS
    from curlora_kinds.retentions.table import RETENTIONS
    from orchestrator.spec.presets import PRESETS

    monkeypatch.setenv("COLUMNS", "100")
    shown = call("methods")
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert max(len(line) for line in lines) <= 100
    # Every name begins a line of its own, in one piece.
    firsts = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    for name in (*ADAPTERS, *RETENTIONS, *PRESETS):
        assert name in firsts
    listed = json.loads(call("methods", "--json").stdout)
    assert {kind["kind"]: kind["writes_base"] for kind in listed["adapters"]} == {
        name: kind.changes_base for name, kind in ADAPTERS.items()
    }
    assert [kind["kind"] for kind in listed["retentions"]] == list(RETENTIONS)
    presets = {preset["name"]: preset for preset in listed["presets"]}
    assert list(presets) == list(PRESETS)
    assert presets["ewc-lora"]["method"] == "lora + ewc_weight"
    assert presets["early-stopped-lora"]["method"] == "lora, early stopping"
    assert presets["zero-shot"]["method"] is None
    assert presets["i-lora"]["learning_rate"] == 1e-5
    assert next(line for line in lines if line.startswith("i-lora")).split()[4] == "1.0e-05"
