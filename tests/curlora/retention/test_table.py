"""The duties of a retention, for every kind in `RETENTIONS` and each of its curvatures."""

import itertools
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

import curlora
from curlora import ADAPTERS
from curlora.curvature.derivatives import observe
from curlora.curvature.layers import adapted_layers
from curlora.curvature.observation import AdaptedLayer, Observation
from curlora.retention.protocol import alone
from curlora_kinds.retentions.sizes import state_size
from curlora_kinds.retentions.table import RETENTIONS
from curlora_kinds.settings import Choice

RANK = 2
TASKS, STEPS, EXAMPLES, BATCH = 3, 3, 4, 2
QUICK = {"max_examples": 3, "capacity": 5, "decay": 0.5, "lambda1": 0.1, "lambda2": 0.01}


def variants(kind):
    """Every choice of a kind's words, and small numbers for the rest."""
    settings = RETENTIONS[kind].settings
    words = {name: s.choices for name, s in settings.items() if isinstance(s, Choice)}
    numbers = {name: value for name, value in QUICK.items() if name in settings}
    for chosen in itertools.product(*words.values()):
        yield numbers | dict(zip(words, chosen, strict=True))


CASES = [
    (adapter, kind, settings)
    for kind in RETENTIONS
    for settings in variants(kind)
    for adapter in ("lora", "curlora")
    if RETENTIONS[kind].refuses(adapter, {**settings, "r": RANK}) is None
]


def named(case):
    adapter, kind, settings = case
    return "-".join([adapter, kind, *(v for v in settings.values() if isinstance(v, str))])


every_case = pytest.mark.parametrize("case", CASES, ids=named)


def exactly(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------ a small sequence


@pytest.fixture(scope="session")
def tasks():
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 64, (TASKS, EXAMPLES, 5), generator=generator)


class Learner:
    """Learns tasks as the protocol says: enough of an engine to see what a retention does."""

    def __init__(self, base, case, tasks, *, dtype=torch.float64):
        self.adapter, kind, settings = case
        self.tasks = tasks
        targets = ADAPTERS[self.adapter].settings
        given = {"r": RANK, "target_modules": ["q_proj", "v_proj"]}
        given = {name: value for name, value in given.items() if name in targets}
        if self.adapter == "osf":
            given["effective_rank"] = 12
        text = [tasks[0]] if self.adapter == "corda" else None
        self.model = curlora.attach(base, self.adapter, given, seed=1, text=text).to(dtype).eval()
        self.params = curlora.trainable_parameters(self.model)
        self.retention = RETENTIONS[kind].build(settings)
        self.layers = adapted_layers(self.model, self.params)
        self.retention.bind(self.layers)
        for name in self.layers if self.retention.renews_adapter else ():
            hook = lambda _, x, y, name=name: y + x[0] @ self.earlier_update(name).t()  # noqa: E731
            self.model.get_submodule(name).register_forward_hook(hook)
        self.frozen = []
        self.losses = []

    def earlier_update(self, name):
        layer = self.layers[name]
        update = torch.zeros(layer.shape, dtype=torch.float64)
        for adapter in self.frozen:
            factors = [adapter[f] if isinstance(f, str) else f for f in layer.factors]
            update += layer.scale * torch.linalg.multi_dot(factors)
        return update

    def log_probability(self, example):
        logits = self.model(example[None]).logits[0, :-1]
        return logits.log_softmax(-1).gather(-1, example[1:, None]).sum()

    def observed(self, examples):
        return observe(
            self.model, self.log_probability, self.params, examples, self.retention.observes
        )

    def begin(self):
        sets = [self.observed(self.tasks[-1][:2]), self.observed(self.tasks[-1][2:])]
        observed = sets if self.retention.source == "texts" else ()
        self.retention.begin_sequence(self.params, tasks=len(self.tasks), observed=observed)

    def begin_task(self, task):
        if self.retention.renews_adapter:
            self.frozen = self.retention.earlier
            renew(self.params, seed=task)
        look = self.observed(self.tasks[task][: self.retention.looks_at])
        self.retention.begin_task(self.params, task, observed=look, reach=0.01 * STEPS)

    def step(self, task, step):
        first = step * BATCH % EXAMPLES
        batch = list(self.tasks[task][first : first + BATCH])
        replayed = [
            self.tasks[of][position] for of, position in self.retention.rows(len(batch), task, step)
        ]
        loss = -sum(self.log_probability(example) for example in [*batch, *replayed])
        loss = loss / len([*batch, *replayed]) + self.retention.penalty(self.params)
        if replayed and self.retention.shadow is not None:
            rows = torch.stack(replayed)
            loss = loss + self.retention.hidden_loss(
                self.hidden(rows, {}), self.hidden(rows, self.retention.shadow)
            )
        gradients = torch.autograd.grad(loss, list(self.params.values()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(self.params.values(), gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(0.01 * gradient / gradient.norm().clamp_min(1))
        self.retention.after_step(self.params)
        self.losses.append(loss.item())

    def hidden(self, rows, values):
        # TinyLoRA shares the module that holds its parameters: tied, each would be put back twice.
        output = torch.func.functional_call(
            self.model, values, (rows,), {"output_hidden_states": True}, tie_weights=False
        )
        return [layer.flatten(0, 1) for layer in output.hidden_states]

    def end_task(self, task):
        examples = list(self.tasks[task])[: self.retention.max_examples]
        self.retention.end_task(
            self.params, task, self.observed(examples), alone, len(self.tasks[task])
        )

    def learn(self, *, until=TASKS, start=(0, 0)):
        """Go on from a task and step to the end of task `until` - 1."""
        for task in range(start[0], until):
            if (task, 0) >= start:
                self.begin_task(task)
            for step in range(start[1] if task == start[0] else 0, STEPS):
                self.step(task, step)
            self.end_task(task)
        return self


def renew(params, *, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in params.items():
            parameter.zero_()
            if ".lora_A." in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.2 * noise)


def moved(params, seed, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (p + scale * torch.randn(p.shape, generator=generator).to(p)).detach()
        for name, p in params.items()
    }


@pytest.fixture(scope="session")
def start(build_base, tasks):
    def make(case, **options):
        # Where updates are summed by a hook, a layer's output is not what CURLoRA may reuse.
        return Learner(build_base("llama"), case, tasks, **options)

    return make


@pytest.fixture(scope="session")
def learnt(start):
    """Learners after one task, made once; tests read them and change nothing."""
    kept = {}

    def make(case):
        if named(case) not in kept:
            learner = start(case)
            learner.begin()
            kept[named(case)] = learner.learn(until=1)
            if learner.retention.looks_at:
                learner.begin_task(1)  # only then is it known how strong the penalty is
        return kept[named(case)]

    return make


# ------------------------------------------------------------------------ every kind


@every_case
def test_penalty_is_zero_until_something_is_known_and_never_negative(case, start, learnt):
    _, kind, settings = case
    fresh = start((case[0], kind, settings | ({"lambda2": 0.0} if kind == "olora" else {})))
    if fresh.retention.source != "texts":
        fresh.retention.begin_sequence(fresh.params, tasks=TASKS)
        fresh.begin_task(0)
        assert fresh.retention.penalty(moved(fresh.params, seed=1)) == 0

    learner = learnt(case)
    penalties = [
        learner.retention.penalty(moved(learner.params, seed, 10.0 ** (seed % 5 - 3)))
        for seed in range(15)
    ]
    assert all(p.shape == () and p.dtype == torch.float64 and p >= 0 for p in penalties)
    guided = kind not in {"none", "replay", "ilora"}
    assert any(p > 0 for p in penalties) == guided


@every_case
def test_no_gradient_at_the_anchor(case, learnt):
    _, kind, _ = case
    if kind == "olora":
        pytest.skip("an overlap has no anchor")
    learner = learnt(case)
    anchors = learner.retention._under("anchor.")
    params = {
        name: anchors.get(name, torch.zeros_like(p)).clone().requires_grad_(True)
        for name, p in learner.params.items()
    }
    penalty = learner.retention.penalty(params)
    assert penalty == 0
    if penalty.requires_grad:
        assert not any(g.any() for g in torch.autograd.grad(penalty, list(params.values())))


@every_case
def test_a_run_resumed_within_a_task_ends_bit_identically(case, start):
    whole = start(case)
    whole.begin()
    whole.learn(until=1)
    whole.begin_task(1)
    whole.step(1, 0)
    saved = save(whole.retention.state_dict()), {n: p.clone() for n, p in whole.params.items()}
    layout = {name: (t.shape, t.dtype) for name, t in whole.retention.state_dict().items()}

    resumed = start(case)
    resumed.retention.load_state_dict(load(saved[0]))
    with torch.no_grad():
        for name, parameter in resumed.params.items():
            parameter.copy_(saved[1][name])
    resumed.frozen = resumed.retention.earlier

    whole.learn(start=(1, 1))
    resumed.learn(start=(1, 1))
    assert resumed.losses == whole.losses[-len(resumed.losses) :]
    assert all(torch.equal(whole.params[name], p) for name, p in resumed.params.items())
    final = resumed.retention.state_dict()
    assert final.keys() == whole.retention.state_dict().keys()
    assert all(torch.equal(final[n], t) for n, t in whole.retention.state_dict().items())
    assert {name: (t.shape, t.dtype) for name, t in final.items()} == layout


@every_case
def test_slots_stacked_give_what_each_gives_alone(case, start, learnt):
    adapter, kind, settings = case
    other = start((adapter, kind, settings | different(kind)))
    other.begin()  # this slot is still at its first task
    slots = [(learnt(case), 1), (other, 2), (learnt(case), 3)]
    states = [slot.retention.state_dict() for slot, _ in slots]
    params = [moved(slot.params, seed) for slot, seed in slots]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    values = {name: torch.stack([p[name] for p in params]) for name in params[0]}
    penalty_of = type(other.retention).penalty_of
    together = torch.vmap(penalty_of, out_dims=0)(stacked, values)
    alone_ = [slot.retention.penalty(p) for (slot, _), p in zip(slots, params, strict=True)]
    exactly(together, torch.stack(alone_))
    gradient = torch.func.grad(lambda v: torch.vmap(penalty_of)(stacked, v).sum())(values)
    for i, p in enumerate(params):
        one = torch.func.grad(lambda v, state=states[i]: penalty_of(state, v))(p)
        for name in p:
            exactly(gradient[name][i], one[name])


def different(kind):
    numbers = {"strength": 0.5, "prior_precision": 0.3, "lambda1": 2.0, "lambda2": 0.7, "seed": 4}
    return {name: v for name, v in numbers.items() if name in RETENTIONS[kind].settings}


@every_case
def test_two_workers_end_with_what_one_would(case, learnt, start):
    _, kind, settings = case
    learner = learnt(case)
    seen = list(learner.observed(learner.tasks[1][:3]))
    params = moved(learner.params, seed=9)

    def ended(observed, total):
        retention = RETENTIONS[kind].build(settings)
        retention.bind(learner.layers)
        sets = [iter(observed), iter(observed)] if retention.source == "texts" else []
        retention.begin_sequence(learner.params, tasks=2, observed=sets, total=total)
        retention.end_task(params, 0, iter(observed), total, EXAMPLES)
        return retention.state_dict()

    expected = ended(seen, alone)
    for shares in ((seen[:2], seen[2:]), (seen, [])):
        for state in in_parallel(ended, shares):
            assert state.keys() == expected.keys()
            for name, tensor in state.items():
                exactly(tensor, expected[name])


def in_parallel(work, shares):
    """Run two workers, whose `total` waits for both and adds in the same order."""
    barrier = threading.Barrier(len(shares), timeout=20)
    given, results = [None] * len(shares), [None] * len(shares)

    def run(rank):
        def total(statistics):
            given[rank] = statistics
            barrier.wait()
            sums = {name: sum(part[name] for part in given) for name in statistics}
            barrier.wait()
            return sums

        results[rank] = work(shares[rank], total)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result is not None for result in results)
    return results


@every_case
def test_the_predicted_size_is_that_of_the_state(case, start):
    adapter, kind, settings = case
    learner = start(case, dtype=torch.float32)
    if learner.retention.source == "texts":
        retention = RETENTIONS[kind].build(settings | {"source": "tasks"})
    else:
        retention = learner.retention
    retention.begin_sequence(learner.params, tasks=TASKS)
    size = state_size(
        kind,
        settings,
        adapter_kind=adapter,
        r=RANK,
        layers={name: layer.shape for name, layer in learner.layers.items()},
        trained=sum(p.numel() for p in learner.params.values()),
        tasks=TASKS,
        tokens_per_example=5.0,
    )
    assert size.bytes == retention.state_bytes()
    assert size.bytes == sum(t.numel() * t.element_size() for t in retention.state_dict().values())
    assert kind in size.arithmetic


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_pair_is_refused_with_a_reason_or_learns(adapter, build_base, tasks):
    pairs = [(kind, settings) for kind in RETENTIONS for settings in variants(kind)]
    learnt_pairs = []
    for kind, settings in pairs:
        if settings.get("source") == "texts" and settings["curvature"] != "diag":
            continue  # measured by the same code as at the end of a task
        reason = RETENTIONS[kind].refuses(adapter, {**settings, "r": RANK})
        if reason is None:
            learns(build_base, (adapter, kind, settings), tasks)
            learnt_pairs.append(kind)
        else:
            assert len(reason) > 20
    assert {"none", "replay"} <= set(learnt_pairs)
    assert len(learnt_pairs) < len(pairs)


def learns(build_base, case, tasks):
    learner = Learner(build_base("llama"), case, tasks[:2])
    if not learner.params:
        learner.retention.begin_sequence(learner.params, tasks=2)
        learner.end_task(0)
        rows = learner.retention.rows(BATCH, 1, 0)
        assert (len(rows) == BATCH) == (case[1] == "replay")
        return
    with torch.no_grad():
        before = learner.log_probability(tasks[0][0])
    learner.begin()
    learner.learn(until=2)
    with torch.no_grad():
        after = [learner.log_probability(example) for example in (tasks[0][0], tasks[1][0])]
    assert all(torch.isfinite(loss) for loss in after), case
    assert float(after[0]) != float(before), case
    assert learner.losses[STEPS - 1] != learner.losses[0], case
    assert all(torch.isfinite(p).all() for p in learner.params.values()), case


# ------------------------------------------------------------------------ the kinds by themselves

A = "layer.lora_A.default.weight"
B = "layer.lora_B.default.weight"


def lora_params(seed=0, *, r=2, d_in=4, d_out=3, b=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        A: torch.randn(r, d_in, generator=generator, dtype=torch.float64),
        B: torch.randn(d_out, r, generator=generator, dtype=torch.float64) * b,
    }


def gradients_only(params, seed, count):
    generator = torch.Generator().manual_seed(seed)
    return [
        Observation(
            {
                name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
                for name, p in params.items()
            }
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", ["ewc", "laplace"])
def test_ewc_and_diagonal_laplace_are_the_textbook_sum_over_two_tasks(kind):
    retention = RETENTIONS[kind].build({"strength": 3.0, "decay": 0.25})
    params, later = lora_params(0), lora_params(1)
    first, second = gradients_only(params, 2, 4), gradients_only(params, 3, 2)
    retention.begin_sequence(params, tasks=3)
    retention.end_task(params, 0, iter(first), alone, 4)
    retention.end_task(later, 1, iter(second), alone, 2)

    now = lora_params(5)
    expected = 0.0
    for name in params:
        fisher = 0.25 * sum(o.gradients[name] ** 2 for o in first) / 4
        fisher = fisher + sum(o.gradients[name] ** 2 for o in second) / 2
        expected = expected + 1.5 * (fisher * (now[name] - later[name]) ** 2).sum()
    exactly(retention.penalty(now), expected)


def factors_of(generator, tokens=3):
    shapes = {A: (4, 2), B: (2, 3)}
    draw = lambda n: torch.randn(tokens, n, generator=generator, dtype=torch.float64)  # noqa: E731
    return Observation(linear={name: (draw(n), draw(m)) for name, (n, m) in shapes.items()})


@pytest.mark.parametrize("curvature", ["kfac", "tri_kfac"])
def test_kronecker_curvature_of_tasks_that_agree_adds_up_exactly(curvature):
    """Two tasks with the same factors, the first decayed by 1/2: 1.5 times the penalty of one."""
    observed = [factors_of(torch.Generator().manual_seed(s)) for s in range(3)]
    params, now = lora_params(0), lora_params(1)

    def after(tasks):
        retention = RETENTIONS["laplace"].build(
            {"curvature": curvature, "decay": 0.5, "strength": 1.0}
        )
        retention.begin_sequence(params, tasks=2)
        for task in range(tasks):
            retention.end_task(params, task, iter(observed), alone, 3)
        return retention.penalty(now)

    assert after(1) > 0.1
    exactly(after(2), 1.5 * after(1))


PULLING = [case for case in CASES if case[1] in {"ewc", "laplace"}]


@pytest.mark.parametrize("case", PULLING, ids=named)
def test_a_found_strength_pulls_with_the_stated_share_of_the_losss_gradient(case, start):
    adapter, kind, settings = case
    learner = start((adapter, kind, settings | {"pull": 0.7}))
    learner.begin()
    learner.learn(until=1)
    learner.begin_task(1)
    look = learner.tasks[1][: learner.retention.looks_at]
    assert len(look) == 3
    params = learner.params
    # The library's own engines give the scored tokens; here the loss is a mean over examples.
    loss = -sum(learner.log_probability(example) for example in look) / len(look)
    g = torch.autograd.grad(loss, list(params.values()))
    reach = 0.01 * STEPS
    furthest = {
        name: (p - reach * slope.sign()).detach().requires_grad_()
        for (name, p), slope in zip(params.items(), g, strict=True)
    }
    q = torch.autograd.grad(learner.retention.penalty(furthest), list(furthest.values()))
    norms = [torch.cat([t.flatten() for t in part]).norm() for part in (q, g)]
    torch.testing.assert_close(norms[0], 0.7 * norms[1], rtol=1e-5, atol=0)
    assert learner.retention.strength > 0
    assert learner.retention.strength == float(learner.retention.state_dict()["strength"])


def test_a_found_strength_has_no_scale_of_its_own():
    """By hand for a diagonal, over two workers, and with gradients ten thousand times smaller."""
    params = lora_params(0)
    ahead = [replace(o, scored=2) for o in gradients_only(params, 7, 3)]

    def found(scale, total=alone):
        retention = RETENTIONS["ewc"].build({"pull": 0.5})
        retention.begin_sequence(params, tasks=2)
        assert retention.looks_at == 0
        retention.begin_task(params, 0, reach=0.2)
        assert retention.strength == 0
        seen = gradients_only(params, 2, 4)
        seen = [Observation({n: scale * t for n, t in one.gradients.items()}) for one in seen]
        retention.end_task(params, 0, iter(seen), alone, 4)
        assert retention.looks_at == 32
        retention.begin_task(params, 1, observed=iter(ahead), total=total, reach=0.2)
        return retention.strength

    seen = gradients_only(params, 2, 4)
    fisher = torch.cat([(sum(o.gradients[n] ** 2 for o in seen) / 4).flatten() for n in params])
    g = torch.cat([(sum(o.gradients[n] for o in ahead) / 6).flatten() for n in params])
    expected = float(0.5 * g.norm() / (0.2 * fisher.norm()))
    assert found(1.0) == pytest.approx(expected, rel=1e-9)
    assert found(1e-4) == pytest.approx(1e8 * expected, rel=1e-9)
    twice = found(1.0, total=lambda sums: {name: 2 * t for name, t in sums.items()})
    assert twice == pytest.approx(expected, rel=1e-9)


def test_where_there_is_nothing_to_hold_or_to_learn_the_strength_is_zero_and_nothing_is_read():
    params = lora_params(0)

    def unread():
        raise AssertionError("the task was looked at")
        yield

    nothing = [Observation({n: torch.zeros_like(p) for n, p in params.items()})]
    for settings in ({}, {"pull": 0.0}, {"strength": 3.0}):
        retention = RETENTIONS["laplace"].build(settings)
        retention.begin_sequence(params, tasks=2)
        retention.begin_task(params, 0, observed=unread(), reach=0.1)
        curved = nothing if settings == {} else gradients_only(params, 2, 4)
        retention.end_task(params, 0, iter(curved), alone, 4)
        assert retention.looks_at == 0
        retention.begin_task(params, 1, observed=unread(), reach=0.1)
        assert retention.strength == settings.get("strength", 0.0)
    retention = RETENTIONS["laplace"].build({"prior_precision": 2.0})
    retention.begin_sequence(params, tasks=1)
    assert retention.looks_at == 32
    retention.begin_task(params, 0, observed=iter(nothing), reach=0.1)
    assert retention.strength == 0  # no gradient, so nowhere to go
    for look, reach in (((), 0.1), (gradients_only(params, 1, 1), 0.0)):
        with pytest.raises(ValueError, match="a task begins with a look at its training examples"):
            retention.begin_task(params, 0, observed=iter(look), reach=reach)
    broken = [Observation({n: torch.full_like(p, torch.nan) for n, p in params.items()})]
    with pytest.raises(ValueError, match="The strength of retention 'laplace' cannot be found"):
        retention.begin_task(params, 0, observed=iter(broken), reach=0.1)


def test_the_coupling_of_both_factors_is_felt():
    """Along a step that moves both, and only there."""
    observed = [factors_of(torch.Generator().manual_seed(0), tokens=1)]
    anchor = lora_params(0)
    penalties = {}
    for curvature in ("kfac", "tri_kfac"):
        retention = RETENTIONS["laplace"].build({"curvature": curvature, "strength": 1.0})
        retention.begin_sequence(anchor, tasks=2)
        retention.end_task(anchor, 0, iter(observed), alone, 1)
        step = lora_params(3)
        penalties[curvature] = [
            retention.penalty({**anchor, **{name: anchor[name] + step[name] for name in moving}})
            for moving in ((A,), (B,), (A, B))
        ]
    (only_A, only_B, both), tri = penalties["kfac"], penalties["tri_kfac"]
    exactly(torch.stack(tri[:2]), torch.stack([only_A, only_B]))
    exactly(both, only_A + only_B)
    # One token: F = g g' x h h' over the stacked matrices, a square of one inner product.
    exactly(
        tri[2],
        0.5
        * (signed_root(only_A, observed, step, A) + signed_root(only_B, observed, step, B)) ** 2,
    )


def signed_root(penalty, observed, step, name):
    h, g = observed[0].linear[name]
    inner = (g @ step[name] @ h.t()).squeeze()
    exactly(0.5 * inner**2, penalty)
    return inner


@pytest.mark.parametrize("curvature", ["diag", "kfac", "tri_kfac"])
def test_loras_first_factor_is_free_at_the_start_unless_a_prior_holds_it(start, curvature):
    settings = {"curvature": curvature, "source": "texts", "max_examples": 2, "strength": 1.0}
    case = ("lora", "laplace", settings)

    def penalties(settings, after_task):
        learner = start((*case[:2], case[2] | settings))
        learner.begin()
        if after_task:
            learner.learn(until=1)
        anchor = {name: p.detach().clone() for name, p in learner.params.items()}
        moved_by = moved(anchor, seed=2)
        return [
            float(learner.retention.penalty(anchor | {n: moved_by[n] for n in anchor if part in n}))
            for part in (".lora_A.", ".lora_B.")
        ]

    of_A, of_B = penalties({}, after_task=False)
    assert of_A == 0
    assert of_B > 0
    of_A, _ = penalties({"prior_precision": 0.5}, after_task=False)
    learner = start(case)
    change = [
        moved(learner.params, 2)[n] - p.detach() for n, p in learner.params.items() if "lora_A" in n
    ]
    assert of_A == pytest.approx(0.25 * sum(float(c.square().sum()) for c in change), rel=1e-12)
    of_A, of_B = penalties({"online": True}, after_task=True)
    assert of_A > 0
    assert of_B > 0


def test_published_lalora_keeps_its_anchor_and_curvature_and_averages_its_sets():
    params, later = lora_params(0), lora_params(1)
    sets = [gradients_only(params, 2, 4), gradients_only(params, 3, 1)]
    retention = RETENTIONS["laplace"].build({"source": "texts", "strength": 2.0})
    retention.begin_sequence(params, tasks=2, observed=[iter(one) for one in sets])

    def unread():
        raise AssertionError("the task was observed")
        yield

    before = retention.state_dict()
    retention.end_task(later, 0, unread(), alone, 4)
    assert all(torch.equal(before[name], t) for name, t in retention.state_dict().items())
    expected = 0.0
    for name in params:
        means = [sum(o.gradients[name] ** 2 for o in one) / len(one) for one in sets]
        fisher = (means[0] + means[1]) / 2
        expected = expected + (fisher * (later[name] - params[name]) ** 2).sum()
    exactly(retention.penalty(later), expected)


@pytest.mark.parametrize("adapter", ["lora", "curlora"])
def test_ewc_weight_weighs_the_current_update_by_the_squared_weight_gradients(start, adapter):
    learner = start((adapter, "ewc_weight", {"strength": 5.0, "max_examples": 2}))
    learner.begin()
    learner.learn(until=1)
    examples = list(learner.tasks[1][:2])
    seen = list(learner.observed(examples))
    before = learner.retention._under("weights.")
    learner.retention.end_task(learner.params, 1, iter(seen), alone, 2)
    now = moved(learner.params, seed=4)
    expected = 0.0
    for name, layer in learner.layers.items():
        squares = [(one.weights[name][1].t() @ one.weights[name][0]).square() for one in seen]
        omega = before[name] + sum(squares) / 2
        exactly(learner.retention._under("weights.")[name], omega)
        factors = [now[f] if isinstance(f, str) else f for f in layer.factors]
        update = layer.scale * torch.linalg.multi_dot(factors)
        expected = expected + 2.5 * (omega * update**2).sum()
    assert expected > 0
    exactly(learner.retention.penalty(now), expected)
    assert len(learner.retention.earlier) == 2
    last = learner.retention.earlier[1]
    assert all(torch.equal(last[name], p) for name, p in learner.params.items())


def test_ewc_loras_default_is_its_published_penalty_for_a_fisher_of_single_examples():
    # The released Fisher squares the mean gradient of a batch of 128. Examples here touch weights
    # of their own, so their gradients are uncorrelated, as the derivation of the default wants.
    params = {A: torch.ones(1, 3), B: torch.ones(128, 1)}
    layer = AdaptedLayer(shape=(128, 3), scale=1.0, factors=(B, A))
    retention = RETENTIONS["ewc_weight"].build({"max_examples": 128})
    retention.bind({A.partition(".lora_A.")[0]: layer})
    retention.begin_sequence(params, tasks=2)
    outputs, inputs = torch.randn(128, generator=torch.Generator().manual_seed(0)), torch.ones(1, 3)
    seen = [
        Observation(weights={A.partition(".lora_A.")[0]: (inputs, (outputs * row)[None])})
        for row in torch.eye(128)
    ]
    retention.end_task(params, 0, seen, alone, 128)
    mean = sum(dy.t() @ x for one in seen for x, dy in one.weights.values()) / 128
    theirs = 0.5 * 1e7 * (mean.square() * (params[B] @ params[A]).square()).sum()
    torch.testing.assert_close(retention.penalty(params), theirs)


def test_olora_counts_the_overlap_with_every_earlier_task():
    retention = RETENTIONS["olora"].build({"lambda1": 0.5, "lambda2": 2.0})
    adapters = [lora_params(seed) for seed in range(3)]
    retention.begin_sequence(adapters[0], tasks=4)
    for task in (0, 1):
        retention.end_task(adapters[task], task, (), alone, 1)
    now = adapters[2]
    overlap = sum(
        abs(float(row @ other))
        for earlier in adapters[:2]
        for row in earlier[A]
        for other in now[A]
    )
    norm = sum(float(p.square().sum()) for p in now.values()) ** 0.5
    exactly(retention.penalty(now), torch.tensor(0.5 * overlap + 2 * norm, dtype=torch.float64))
    orthogonal = dict(now)
    basis = torch.linalg.qr(torch.cat([a[A] for a in adapters[:2]]).t(), mode="complete")[0]
    retention = RETENTIONS["olora"].build({})
    retention.begin_sequence(now, tasks=2)
    retention.end_task({A: basis[:, :2].t(), B: now[B]}, 0, (), alone, 1)
    orthogonal[A] = basis[:, 2:].t()
    exactly(retention.penalty(orthogonal), torch.zeros((), dtype=torch.float64))
    with pytest.raises(ValueError, match="no room for the adapter of task 2"):
        retention.end_task(now, 2, (), alone, 1)


def replay(capacity, seed=0, **settings):
    return RETENTIONS["replay"].build({"capacity": capacity, "seed": seed, **settings})


def test_the_reservoir_keeps_every_example_equally_often():
    """60 examples of 3 unequal tasks, 12 kept, 600 seeds: each is kept 120 times on average."""
    kept = torch.zeros(60)
    for seed in range(600):
        retention = replay(12, seed)
        for task, examples in enumerate((10, 35, 15)):
            retention.end_task({}, task, (), alone, examples)
        reservoir = retention.state_dict()["reservoir"].tolist()
        places = [(0, 10, 45)[task] + position for task, position in reservoir]
        assert len(set(places)) == 12
        kept[places] += 1
    # Each count is binomial with variance 96; 60 of them with 59 degrees of freedom.
    statistic = float(((kept - 120) ** 2 / 96).sum())
    assert 30 < statistic < 98  # beyond either by chance: about 1 in 1000


def test_a_reservoir_that_has_just_overflowed_is_uniform_already():
    """4 examples, 2 kept, 1000 seeds: 500 each, with a deviation of 16."""
    kept = [0] * 4
    for seed in range(1000):
        retention = replay(2, seed)
        retention.end_task({}, 0, (), alone, 4)
        for _, position in retention.state_dict()["reservoir"].tolist():
            kept[position] += 1
    assert all(430 < count < 570 for count in kept), kept


def test_rows_are_drawn_without_replacement_equally_often_and_from_counters_alone():
    retention = replay(8, seed=3)
    assert retention.rows(4, 0, 0) == []
    retention.end_task({}, 0, (), alone, 5)
    assert sorted(retention.rows(100, 1, 0)) == [(0, i) for i in range(5)]
    retention.end_task({}, 1, (), alone, 9)
    counts = {}
    for step in range(400):
        rows = retention.rows(3, 2, step)
        assert len(set(rows)) == 3
        for row in rows:
            counts[row] = counts.get(row, 0) + 1
    assert sum(counts.values()) == 1200
    assert len(counts) == 8
    assert all(105 < count < 195 for count in counts.values())  # 150 +- 4.6 deviations
    again = replay(8, seed=3)
    again.load_state_dict(retention.state_dict())
    assert again.rows(3, 2, 399) == rows
    assert again.rows(3, 2, 17) == retention.rows(3, 2, 17) != retention.rows(3, 1, 17)
    assert len(replay(8, share=0.5).rows(4, 1, 0)) == 0
    half = replay(8, share=0.5)
    half.end_task({}, 0, (), alone, 8)
    assert len(half.rows(6, 1, 0)) == 3


def test_the_slow_adapter_follows_and_guides_only_where_it_is_larger():
    retention = RETENTIONS["ilora"].build({"strength": 2.0})
    params = lora_params(0)
    retention.begin_sequence(params, tasks=2)
    slow = {name: p.clone() for name, p in params.items()}
    for step, kept in enumerate((0.0, 0.25, 0.25)):
        now = lora_params(step + 1)
        retention.after_step(now)
        slow = {name: kept * slow[name] + (1 - kept) * now[name] for name in now}
        for name in now:
            exactly(retention.shadow[name], slow[name])

    fast = [torch.tensor([[1.0, 4.0]], requires_grad=True), torch.zeros(2, 2, requires_grad=True)]
    slow = [torch.tensor([[3.0, 2.0]], requires_grad=True), torch.zeros(2, 2)]
    loss = retention.hidden_loss(fast, slow)
    assert loss.item() == 2.0 * ((2.0**2 / 2) + 0) / 2
    loss.backward()
    assert fast[0].grad.tolist() == [[-2.0, 0.0]]
    assert slow[0].grad is None
    with pytest.raises(ValueError, match="same layers and rows"):
        retention.hidden_loss(fast, slow[:1])
    with pytest.raises(ValueError, match="no slow adapter"):
        RETENTIONS["ewc"].build().hidden_loss(fast, slow)


def test_without_strength_ilora_is_replay_alone(start):
    losses = {}
    for kind, settings in (
        ("ilora", {"strength": 0.0}),
        ("replay", {}),
        ("ilora", {"strength": 50.0}),
    ):
        learner = start(("lora", kind, {"capacity": 5, **settings}))
        learner.begin()
        losses[(kind, *settings.values())] = learner.learn(until=2).losses
    assert losses[("ilora", 0.0)] == losses[("replay",)] != losses[("ilora", 50.0)]


def test_a_state_given_away_stays_what_it_was():
    retention = RETENTIONS["ilora"].build()
    params = lora_params(0)
    retention.begin_sequence(params, tasks=2)
    state = retention.state_dict()
    copies = {name: t.clone() for name, t in state.items()}
    retention.after_step(lora_params(1))
    retention.end_task(params, 0, (), alone, 3)
    assert all(torch.equal(state[name], t) for name, t in copies.items())
    assert not torch.equal(state["seen"], retention.state_dict()["seen"])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("ewc", {"strenght": 1.0}, "Did you mean 'strength'"),
        ("ewc", {"strength": -1.0}, "at least 0, got -1.0"),
        ("ewc", {"strength": float("nan")}, "got nan"),
        ("ewc", {"strength": float("inf")}, "must be finite"),
        ("ewc", {"strength": True}, "must be 'auto' or a number"),
        ("ewc", {"strength": "autp"}, "must be 'auto' or a number"),
        ("ewc", {"decay": 1.5}, "at most 1"),
        ("ewc", {"max_examples": 0}, "whole number of at least 1"),
        ("replay", {"capacity": 2.5}, "whole number"),
        ("laplace", {"curvature": "kafc"}, "Did you mean 'kfac'"),
        ("laplace", {"online": 1}, "true or false"),
        ("laplace", {"online": False}, "no curvature is ever measured"),
    ],
)
def test_wrong_settings_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        RETENTIONS[kind].build(settings)


def test_wrong_use_is_refused_with_the_way_out():
    params = lora_params(0)
    ewc = RETENTIONS["ewc"].build()
    with pytest.raises(ValueError, match="Call `begin_sequence`"):
        ewc.penalty(params)
    with pytest.raises(ValueError, match="`tasks` must be at least 1"):
        ewc.begin_sequence(params, tasks=0)
    with pytest.raises(ValueError, match="reads no source sets"):
        ewc.begin_sequence(params, tasks=1, observed=[()])
    ewc.begin_sequence(params, tasks=1)
    with pytest.raises(ValueError, match="no example was observed"):
        ewc.end_task(params, 0, (), alone, 0)
    with pytest.raises(ValueError, match="no state of retention 'replay'"):
        RETENTIONS["replay"].build().load_state_dict(ewc.state_dict())
    with pytest.raises(ValueError, match="none was given"):
        RETENTIONS["laplace"].build({"source": "texts"}).begin_sequence(params, tasks=1)
    with pytest.raises(ValueError, match="Call `bind`"):
        RETENTIONS["ewc_weight"].build().begin_sequence(params, tasks=1)
    with pytest.raises(ValueError, match="does not go with adapter 'dora'"):
        state_size(
            "olora", {}, adapter_kind="dora", r=4, layers={}, trained=0, tasks=1,
            tokens_per_example=1.0,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("adapter", "kind", "settings"),
    [
        ("curlora", "olora", {}),
        ("dora", "ewc_weight", {}),
        ("pissa", "olora", {}),
        ("dora", "laplace", {"curvature": "kfac"}),
        ("curlora", "laplace", {"curvature": "tri_kfac"}),
        ("lora", "laplace", {"curvature": "full"}),
        ("curlora", "laplace", {"curvature": "full", "r": 33}),
        ("head_only", "ewc", {}),
    ],
)
def test_pairs_that_make_no_sense_are_refused(adapter, kind, settings):
    assert RETENTIONS[kind].refuses(adapter, settings)
    fitting = {"olora": "lora", "ewc_weight": "curlora", "ewc": "curlora", "laplace": "lora"}[kind]
    changed = {"curvature": "diag"} if kind == "laplace" else {}
    assert RETENTIONS[kind].refuses(fitting, settings | changed) is None
    assert RETENTIONS["laplace"].refuses("curlora", {"curvature": "full", "r": 32}) is None


def test_the_arithmetic_can_be_read():
    size = state_size(
        "laplace", {"curvature": "kfac"}, adapter_kind="lora", r=16,
        layers={f"{i}": (1024, 4096) for i in range(96)}, trained=7864320, tasks=3,
        tokens_per_example=1.0,
    )  # fmt: skip
    assert "96 layers x (4096^2 + 2 x 16^2 + 1024^2) x 4 bytes" in size.arithmetic
    assert size.arithmetic.endswith("= 6.4 GiB")
