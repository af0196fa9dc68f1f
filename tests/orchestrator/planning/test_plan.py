import io
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from orchestrator.base import facts
from orchestrator.cli.output import plan_tables
from orchestrator.data.formats.placed_row import DataError
from orchestrator.executors.pool.admission import trial_refuses
from orchestrator.planning import cost, planner, preflight, speed, tokens
from orchestrator.planning.plan import Machine
from orchestrator.planning.speed import Speed
from orchestrator.spec.experiment import Experiment
from orchestrator.spec.load import load_experiment
from orchestrator.spec.sections import EXECUTORS, ModelSpec
from orchestrator.system import byte_units

HIDDEN, LAYERS, VOCABULARY, INNER = 64, 2, 1000, 128
EXPERIMENT = """\
name: demo
model: {name: ./model}
tasks: [colour, shade]
probes: [prose]
method: {adapter: {kind: curlora, r: 4, target_modules: [q_proj, v_proj]}}
training: {epochs: 2, batch_size: 4, max_length: 32, precision: fp32}
data: {train_examples: 10, validation_examples: 8, probe_tokens: 40, rung_examples: 4}
search:
  space:
    method.adapter.kind: {choice: [curlora, lora]}
    method.adapter.r: {choice: [4, 8]}
  searcher: grid
resources: {executor: train, workers: 1}
"""
TASK = """\
name: %s
kind: classification
data: {files: data}
prompt: "{text} is"
labels: {"0": " red", "1": " blue"}
"""
MACHINE = Machine(cpus=2, gpus=0, memory=64 * byte_units.GIB, disk=10**12)


def write_model(folder):
    """A model folder whose weights are holes: only the header may be read."""
    folder.mkdir()
    config = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
              "vocab_size": VOCABULARY, "intermediate_size": INNER}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN], "model.norm.weight": [HIDDEN]}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}.weight": [HIDDEN, HIDDEN] for part in
                   ("q_proj", "v_proj")}  # fmt: skip
        shapes[f"{name}.mlp.down_proj.weight"] = [HIDDEN, INNER]
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)  # a hole: no number is written, or read


@pytest.fixture
def loaded(tmp_path):
    write_model(tmp_path / "model")
    (tmp_path / "tasks" / "data").mkdir(parents=True)
    for name in ("colour", "shade"):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(TASK % name)
    prose = "name: prose\nkind: language_modelling\ndata: {files: data}\n"
    (tmp_path / "tasks" / "prose.yaml").write_text(prose)
    for split, start, count in (("train", 0, 30), ("validation", 100, 12), ("test", 200, 5)):
        rows = [
            {"text": f"A thing {i} of many", "label": i % 2} for i in range(start, start + count)
        ]
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / "tasks" / "data" / f"{split}.jsonl").write_text(lines)
    (tmp_path / "demo.yaml").write_text(EXPERIMENT)
    return load_experiment(tmp_path / "demo.yaml")


def made(loaded, **options):
    return planner.make_plan(loaded, MACHINE, calibrate=False, **options)


def text_of(plan, width=100):
    out = io.StringIO()
    Console(file=out, width=width).print(plan_tables.render(plan))
    return out.getvalue()


def with_changes(loaded, **changes):
    document = loaded.experiment.model_dump(mode="json") | changes
    return loaded.model_copy(update={"experiment": Experiment.model_validate(document)})


def test_grid_has_as_many_trials_as_points(loaded):
    assert made(loaded).trials == 4
    assert made(loaded, kind="run").trials == 1


def test_a_cut_grid_is_said(loaded):
    assert "points" not in text_of(made(loaded))
    search = loaded.experiment.search.model_dump(mode="json") | {"trials": 3}
    plan = made(with_changes(loaded, search=search))
    assert plan.trials == 3
    said = " ".join(text_of(plan).split())
    assert "The grid has 4 points, and 3 will run (`search.trials`), spread over all" in said
    assert made(with_changes(loaded, search=search), kind="run").left_out is None


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"zero_optimization": {"stage": 2, "offload_optimiser": {"device": "cpu"}}},
         "training.deepspeed.zero_optimization: offload_optimiser: unknown field. Did you mean "
         "'offload_optimizer'?; got {'device': 'cpu'}"),
        ({"zero_optimisation": {"stage": 2}},
         "training.deepspeed.zero_optimisation: DeepSpeed knows no such section and would ignore "
         "it. Did you mean 'zero_optimization'?"),
        ({"scheduler": {"type": "WarmupLRR"}}, "got 'WarmupLRR'. Did you mean 'WarmupLR'?"),
        ({"optimizer": {"typ": "AdamW"}}, "training.deepspeed.optimizer: `type` names none"),
        ({"comms_logger": {"enable": True}}, "enable: unknown field; got True (CommsLoggerConfig)"),
        ({"compression_training": {}}, "training.deepspeed: DeepSpeed refuses it: The DeepSpeed"),
    ],
)  # fmt: skip
def test_what_deepspeed_would_refuse_or_ignore_is_in_the_way(loaded, section, expected, capsys):
    plan = made(with_changes(loaded, training={"deepspeed": section}))
    assert any(expected in problem for problem in plan.problems), plan.problems
    assert not capsys.readouterr().out  # where DeepSpeed logs, and a JSON document may stand


def test_every_deepspeed_section_of_a_search_is_checked_and_good_ones_pass(loaded):
    training = {"deepspeed": {"zero_optimization": {"stage": 2, "reduce_bucket_size": 2e8}}}
    path = "training.deepspeed.zero_optimization.offload_optimizer.device"
    assert not made(with_changes(loaded, training=training)).problems
    search = {"space": {path: {"choice": ["cpu", "gpu"]}}, "searcher": "grid"}
    (problem,) = made(with_changes(loaded, training=training, search=search)).problems
    assert "offload_optimizer.device: Input should be 'none', 'cpu' or 'nvme'; got 'gpu'" in problem


def test_training_tokens_are_those_of_all_tasks_times_epochs(loaded):
    plan = made(loaded)
    colour, shade, prose = plan.tasks
    assert (colour.train_examples, prose.train_examples) == (10, 0)
    assert plan.train_tokens == 2 * (colour.train_tokens + shade.train_tokens)
    assert colour.steps == 2 * 3


def test_evaluation_counts_rungs_of_each_task_and_all_tasks_at_each_end(loaded):
    plan = made(with_changes(loaded, scoring="full"))
    colour, shade, prose = (task.validation_tokens for task in plan.tasks)
    rungs = 2 * 0.5 * (colour + shade)
    assert plan.evaluation_tokens == rungs + 2 * (colour + shade + prose)
    assert plan.base_tokens == colour + shade + prose
    assert made(loaded, kind="run").evaluation_tokens == plan.evaluation_tokens


def test_a_screened_trial_is_counted_by_its_cells_and_examples(loaded):
    screened = made(with_changes(loaded, scoring={"screen": 3}))
    colour, shade, prose = screened.tasks
    # Forgetting reads the first task twice, gain the last row; a rung never sees more examples.
    share = 3 / colour.validation_examples
    cells = share * (2 * colour.validation_tokens + shade.validation_tokens)
    rungs = 2 * share * (colour.validation_tokens + shade.validation_tokens)
    assert screened.evaluation_tokens == round(cells + rungs + prose.validation_tokens)
    assert "3 of 4 cells of the accuracy matrix, on the first 3 examples" in screened.scored
    assert screened.whole_tokens > screened.evaluation_tokens


def test_early_stopping_asks_for_more_of_the_matrix_and_for_probes_after_each_task(loaded):
    search = loaded.experiment.search.model_dump(mode="json") | {"early_stopping": True}
    lazy = with_changes(loaded, objectives={"gain": "max"})
    plain, raced = made(lazy), made(with_changes(lazy, search=search))
    # Of two tasks, the first when it is learnt; and the one probe once more.
    [colour, _, prose] = plain.tasks
    assert raced.evaluation_tokens == (
        plain.evaluation_tokens + colour.validation_tokens + prose.validation_tokens
    )
    assert "probes after the last task" in plain.scored
    assert "probes after each task" in raced.scored


def test_steps_that_trials_share_are_said_where_the_file_names_the_trials(loaded):
    method = {"adapter": {"kind": "lora", "r": 2, "target_modules": ["q_proj"]},
              "retention": {"kind": "ewc"}}  # fmt: skip
    space = {
        "method.retention.strength": {"choice": [1.0, 10.0, 100.0]},
        "training.learning_rate": {"choice": [1e-3, 1e-2]},
    }
    grid = with_changes(loaded, method=method, search={"space": space, "searcher": "grid"})
    plan = made(grid)
    # Two rates, each with three strengths that do nothing before the second task.
    each = [task.steps for task in plan.tasks if not task.probe]
    assert (plan.shared.trials, plan.shared.all_steps) == (6, 6 * sum(each))
    assert plan.shared.steps == 4 * each[0]
    assert "(33%)" in " ".join(text_of(plan).split())
    first = [{"method.retention.strength": s, "training.learning_rate": 1e-3} for s in (1.0, 10.0)]
    drawn = {"space": space, "searcher": "tpe", "trials": 9}
    assert made(with_changes(loaded, method=method, search=drawn)).shared is None
    some = made(with_changes(loaded, method=method, search=drawn | {"first": first})).shared
    assert (some.trials, some.steps) == (2, each[0])


def test_an_extension_costs_its_further_tasks_and_what_is_trained_beside_it(loaded, tmp_path):
    extends = {"sweep": "first", "sweep_id": "i", "trial": "t001", "learnt": 1}
    whole = made(with_changes(loaded, search=None), kind="run")
    extension = with_changes(
        loaded, search=None, scoring="full", extends=extends, storage=str(tmp_path / "runs")
    )
    plan = made(extension, kind="extension")
    colour, shade, _ = plan.tasks
    assert plan.train_tokens == 2 * shade.train_tokens < whole.train_tokens
    assert plan.evaluation_tokens < whole.evaluation_tokens
    assert (plan.trials, plan.compared_trials) == (3, 2)
    assert any("holds no such sweep" in problem for problem in plan.problems)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    text = " ".join(text_of(made(extension, kind="extension")).split())
    assert "Goes on from first/t001" in text
    assert "In the way" not in text
    speed_of_ten = Speed(0.1, 0.05, 0.069)
    taken = planner.TrialCost(
        extension.experiment, plan.tasks, plan.base, plan.methods, plan.epochs
    ).joint_seconds(speed_of_ten)
    assert taken > 0.1 * 2 * colour.train_tokens, "joint retraining learns the first task again"


def test_what_trials_share_takes_room_up_to_its_bounds(loaded, tmp_path):
    stored = with_changes(loaded, storage=str(tmp_path / "runs"))
    plan = made(stored)
    [largest] = [max(method.adapter.trained for method in plan.methods)]
    state = 4 * largest + max(method.carried for method in plan.methods)
    assert 0 < plan.shared_bytes <= plan.trials * 2 * state
    few = planner.make_plan(stored, replace(MACHINE, disk=1000), calibrate=False)
    assert few.shared_bytes == 100, "a tenth of what is free"


def test_missing_tokenizer_gives_an_estimate_that_says_so(loaded):
    plan = made(loaded)
    assert plan.tokens_from.startswith("an estimate from bytes")
    assert "These are an estimate from bytes" in " ".join(text_of(plan).split())


def test_byte_tokenizer_keeps_a_prompts_tokens_when_more_follows():
    tokenizer = tokens.ByteTokenizer()
    prompt = tokenizer("A sentence with an extraordinarily long word")["input_ids"]
    assert tokenizer("A sentence with an extraordinarily long word no")["input_ids"][:-1] == prompt
    assert len(tokenizer.decode(prompt)) == 44


def test_what_cannot_be_packed_is_named_with_its_reason(loaded):
    space = {
        "method.adapter.kind": {"choice": ["curlora", "pissa"]},
        "training.accumulation": {"choice": [1, 2]},
        "training.batch_size": {"choice": [4, 8]},
    }
    search = loaded.experiment.search.model_dump(mode="json")
    search["space"] |= space
    pooled = with_changes(loaded, resources={"executor": "pool"}, search=search)
    said = " ".join(text_of(made(pooled), width=400).split())
    assert "Packed, many in one pass over one base: curlora." in said
    alone = "Not packed, with workers of their own (as executor train): "
    assert f"{alone}pissa: the adapter 'pissa' is not one of curlora, lora" in said
    assert f"{alone}trials with training.accumulation 2: `training.accumulation` is 2" in said
    assert "training.batch_size" not in said


def test_a_base_with_dropout_is_not_packed(loaded):
    """Rows of a pack go through the base together, and would share its random masks."""
    config = Path(loaded.experiment.model.name) / "config.json"
    written = json.loads(config.read_text())
    for dropout, packed in (
        ({"resid_pdrop": 0.1}, False),
        ({"text_config": {"attention_dropout": 0.1}}, False),
        ({"attention_dropout": 0.0, "summary_first_dropout": 0.1}, True),
    ):
        config.write_text(json.dumps(written | dropout))
        refused = trial_refuses(loaded.experiment, loaded.tasks)
        assert (refused is None) is packed, dropout
        if not packed:
            assert "the base uses dropout" in refused


def test_sizes_come_from_the_header_alone(loaded):
    base = made(loaded).base
    body = LAYERS * (2 * HIDDEN**2 + HIDDEN * INNER) + HIDDEN
    assert base.body == body
    assert base.parameters == body + VOCABULARY * HIDDEN
    assert (base.hidden, base.layers, base.heads) == (HIDDEN, LAYERS, 4)


def test_adapters_are_counted_by_kind_and_rank(loaded):
    sizes = {(a.kind, a.r): a.trained for a in made(loaded).adapters}
    layers = 2 * LAYERS
    assert sizes == {
        ("curlora", 4): layers * 4 * 4,
        ("curlora", 8): layers * 8 * 8,
        ("lora", 4): layers * 4 * 2 * HIDDEN,
        ("lora", 8): layers * 8 * 2 * HIDDEN,
    }


def test_flops_are_four_n_and_six_p_for_training_and_two_n_for_scoring(loaded):
    plan = made(loaded)
    p = max(adapter.trained for adapter in plan.adapters)
    head = HIDDEN * VOCABULARY
    scored = 2 * sum(task.train_scored for task in plan.tasks)
    expected = plan.train_tokens * (4 * plan.base.body + 6 * p) + scored * 4 * head
    assert plan.flops_train == expected
    assert plan.flops_evaluation > plan.evaluation_tokens * 2 * plan.base.body


ADAPTER = {"kind": "curlora", "r": 4, "target_modules": ["q_proj", "v_proj"]}
SPEED = Speed(learn=0.01, score=0.004, python=cost.PYTHON_SECONDS)


def test_time_is_one_number_from_the_measured_passes(loaded, monkeypatch):
    monkeypatch.setattr(planner, "measured_speed", lambda *_: SPEED)
    plan = planner.make_plan(with_changes(loaded, scoring="full"), MACHINE)
    output = HIDDEN * VOCABULARY / plan.base.body
    learnt = plan.train_tokens + output * 2 * sum(task.train_scored for task in plan.tasks)
    assert plan.trial_seconds > (learnt * 0.01 + plan.evaluation_tokens * 0.004) / 0.96
    facts = EXECUTORS["train"]
    # Four trials of one worker, two at a time, after the base and before two readings of test data.
    base = plan.base_tokens * 0.004 / 0.96
    expected = facts.sweep_start + 2 * (plan.trial_seconds + facts.trial_start) + 3 * base
    assert (plan.at_once, plan.trials) == (2, 4)
    assert plan.sweep_seconds == pytest.approx(expected)
    assert f"The whole sweep takes about {expected / 60:.1f} min" in text_of(plan)
    assert "a trial is about 0.25 s of" in text_of(replace(plan, trial_seconds=0.25))
    # Screened trials are quicker, and three of them are scored whole before the verdict.
    screened = planner.make_plan(loaded, MACHINE)
    rest = (screened.whole_tokens - screened.evaluation_tokens) * 0.004 / 0.96
    learn = facts.sweep_start + 2 * (screened.trial_seconds + facts.trial_start) + 3 * base
    assert screened.trial_seconds < plan.trial_seconds
    assert learn < screened.sweep_seconds <= learn + 3 * rest + 1e-9


def test_replayed_rows_and_members_of_a_pool_count(loaded, monkeypatch):
    monkeypatch.setattr(planner, "measured_speed", lambda *_: SPEED)
    pool = with_changes(loaded, resources={"executor": "pool", "workers": 1})
    one, two = (
        planner.make_plan(pool, Machine(cpus, 0, 64 * byte_units.GIB, 10**12)) for cpus in (1, 2)
    )
    start = EXECUTORS["pool"].sweep_start + 2 * one.base_tokens * 0.004 / 0.96
    assert two.trial_seconds == one.trial_seconds
    assert (one.sweep_seconds - start) == pytest.approx(2 * (two.sweep_seconds - start))
    replaying = with_changes(pool, method={"adapter": ADAPTER, "retention": {"kind": "replay"}})
    learnt = planner.make_plan(replaying, MACHINE).trial_seconds - two.trial_seconds
    assert learnt > two.train_tokens * 0.01


def test_a_budget_bounds_the_trials_of_a_plan(loaded, monkeypatch):
    monkeypatch.setattr(planner, "measured_speed", lambda *_: SPEED)
    free = planner.make_plan(loaded, MACHINE)
    assert free.bounded is None
    search = loaded.experiment.search.model_dump(mode="json")

    def within(**budget):
        return planner.make_plan(with_changes(loaded, search={**search, **budget}), MACHINE)

    tight = within(time_budget=f"{free.sweep_seconds - 1:.0f}s")
    assert tight.trials == 2
    assert tight.sweep_seconds < free.sweep_seconds - 1
    assert "allows about 2 trials of the 4 that the file asks for" in text_of(tight)
    assert within(time_budget="10h").bounded is None
    each = free.trial_seconds / 60
    assert within(compute_budget=f"{3.5 * each:.3f} core-minutes").trials == 3
    for known, trials in ((SPEED, 500), (None, 8)):
        monkeypatch.setattr(planner, "measured_speed", lambda *_, known=known: known)
        plan = within(searcher="random", time_budget="100h")
        assert (plan.trials > trials) if known else (plan.trials == trials)


def test_a_speed_is_measured_once_for_a_machine_and_base(experiment_file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    experiment = load_experiment(experiment_file()).experiment
    base = facts.base_facts(experiment.model)
    first = speed.measured_speed(experiment, base, 20)
    assert first is not None
    assert 0 < first.score < first.learn < 1
    assert speed.measured_speed(experiment, base, 20) == first, "it is read, as times differ"
    assert speed.measured_speed(experiment, base, 100) != first, "rows of another length"


def test_what_cannot_run_is_not_timed(loaded, monkeypatch):
    monkeypatch.setattr(planner, "measured_speed", lambda *_: pytest.fail("it was timed"))
    too_large = with_changes(loaded, method={"adapter": {**ADAPTER, "r": 999}}, search=None)
    plan = planner.make_plan(too_large, MACHINE)
    assert plan.problems
    assert plan.speed is None
    monkeypatch.setattr(speed, "LARGEST_BASE", 0)
    monkeypatch.setattr(speed, "_measure", lambda *_: pytest.fail("it was loaded"))
    model = {"name": loaded.experiment.model.name, "quantization": "nf4"}
    large = with_changes(loaded, model=model).experiment
    assert speed.measured_speed(large, facts.base_facts(large.model), 20) is None


def test_of_a_large_base_a_few_layers_are_timed(experiment_file, monkeypatch):
    experiment = load_experiment(experiment_file()).experiment
    base = facts.base_facts(experiment.model)
    monkeypatch.setattr(speed, "LARGEST_BASE", 0)
    monkeypatch.setattr(speed, "LAYER_BYTES", 1)
    model, share = speed._model(experiment, base, torch.device("cpu"))
    assert len(model.model.layers) == 1
    assert share == 1 / base.layers


def test_a_sweep_says_before_its_first_trial_that_memory_will_not_do(loaded, monkeypatch):
    experiment, where = loaded.experiment, Path(loaded.experiment.storage)
    monkeypatch.setattr(preflight.machine, "memory", lambda: (byte_units.GIB, byte_units.GIB // 8))
    (told,) = [x for x in preflight.cautions(experiment, where) if x.startswith("Memory: ")]
    assert "GiB, and 0.1 GiB are free" in told
    other = preflight.cautions(experiment, where, address="auto")
    assert not [x for x in other if x.startswith("Memory: ")], "another machine has another memory"
    monkeypatch.setattr(preflight.machine, "memory", lambda: (1 << 40, 1 << 40))
    assert not [x for x in preflight.cautions(experiment, where) if x.startswith("Memory: ")]


def test_too_little_memory_is_a_warning(loaded):
    small = Machine(cpus=2, gpus=0, memory=byte_units.GIB // 2, disk=10**12)
    plan = planner.make_plan(loaded, small, calibrate=False)
    assert any(warning.startswith("Memory: 2 workers") for warning in plan.warnings)
    assert "Warning: Memory" in text_of(plan)
    assert not made(loaded).warnings
    assert not made(loaded).problems


def test_trial_that_does_not_fit_is_in_the_way(loaded):
    resources = {"executor": "train", "workers": 4}
    plan = made(with_changes(loaded, resources=resources))
    assert plan.at_once == 0
    assert any("does not fit" in problem for problem in plan.problems)
    assert "In the way: One trial does not fit" in text_of(plan)


def test_target_that_matches_no_layer_is_in_the_way(loaded):
    method = {"adapter": {"kind": "lora", "target_modules": ["c_attn"]}}
    plan = made(with_changes(loaded, method=method))
    assert any("'c_attn' matches no layer" in problem for problem in plan.problems)


def test_unknown_base_leaves_memory_and_time_open(loaded, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    plan = made(with_changes(loaded, model={"name": "nobody/nothing-of-this-name"}))
    assert plan.base is None
    assert plan.worker_bytes is None
    assert "Time: not estimated" in text_of(plan)
    assert any("hf download" in warning for warning in plan.warnings)


def test_more_epochs_in_the_search_are_planned_for(loaded):
    search = {"space": {"training.epochs": {"choice": [1, 5]}}, "trials": 2}
    assert made(with_changes(loaded, search=search)).epochs == 5


def test_missing_data_are_refused(loaded, tmp_path):
    for file in (tmp_path / "tasks" / "data").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="holds no data"):
        made(loaded)


def test_nothing_is_written(loaded, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    made(loaded)
    assert sorted(tmp_path.rglob("*")) == before


def test_document_is_json_and_leaves_the_shapes_out(loaded):
    document = json.loads(json.dumps(plan_tables.as_document(made(loaded)), allow_nan=False))
    assert "shapes" not in document["base"]
    assert document["trials"] == 4
    assert document["worker_bytes"] > 0


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_the_terminal(loaded, width):
    text = text_of(made(loaded), width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    for wanted in ("colour", "prose (probe)", "Memory of one worker", "Resources:", "Storage:"):
        assert wanted in text


def test_gguf_sizes_are_read_without_weights(tmp_path):
    import numpy as np
    from gguf import GGUFWriter

    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(LAYERS)
    writer.add_head_count(4)
    writer.add_feed_forward_length(INNER)
    writer.add_tensor("token_embd.weight", np.zeros((VOCABULARY, HIDDEN), dtype=np.float32))
    for layer in range(LAYERS):
        shape = (2 * HIDDEN, HIDDEN)
        writer.add_tensor(f"blk.{layer}.attn_q.weight", np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    base = facts.base_facts(ModelSpec(gguf=str(path)))
    assert (base.hidden, base.vocabulary, base.layers) == (HIDDEN, VOCABULARY, LAYERS)
    assert base.shapes == {f"blk.{layer}.q_proj": (2 * HIDDEN, HIDDEN) for layer in range(LAYERS)}
