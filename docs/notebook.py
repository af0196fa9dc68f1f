# %% [markdown]
# # A sweep from Python
#
# VS Code, Spyder and Jupyter (with Jupytext) open this file as a notebook: each `# %%` begins a
# cell. `python docs/notebook.py` runs it as a whole. `make demo` fetches the model and the data of
# the demo and runs its sweep; this file goes on from there.

# %% tags=["parameters"]
FILE = "experiments/demo.yaml"
STORAGE = "runs"

# %% [markdown]
# `run_sweep` takes a file or an `orchestrator.Experiment`. What is finished is not run again.

# %%
import logging

import orchestrator

logging.basicConfig(level=logging.WARNING)
logging.getLogger("orchestrator").setLevel(logging.INFO)
sweep = orchestrator.run_sweep(FILE, storage=STORAGE)
sweep

# %% [markdown]
# `trials` is a `pandas.DataFrame`: state, measures, 95 % intervals, settings by dotted paths.

# %%
trials = sweep.trials
trials[["state", "gain", "gain_low", "gain_high", "forgetting", "training.learning_rate"]]

# %%
complete = trials[trials["state"] == "COMPLETE"]
complete.groupby("method.adapter.kind")[["gain", "forgetting"]].mean()

# %% [markdown]
# The front holds the trials that no other one beats in all objectives. The champion is one of
# them, or there is none; `reason` says why. `open_sweep` gives a sweep without running anything,
# also while it runs elsewhere.

# %%
sweep = orchestrator.open_sweep(sweep.folder)
sweep.front

# %%
print(sweep.champion, "-", sweep.reason)

# %% [markdown]
# The accuracy matrix of a trial: what each task scores after each task was learnt. What was
# forgotten of a task is the best value of its column minus the last.

# %%
best = sweep.champion or complete["gain"].idxmax()
matrix = sweep.matrix(best)
matrix

# %%
forgotten = matrix.iloc[1:].max() - matrix.iloc[-1]
print(forgotten.to_string())

# %%
curves = sweep.curves(best)
curves.groupby("task", sort=False)["loss"].agg(["first", "last"])

# %%
print(sweep.report())

# %% [markdown]
# A trained model is asked by name: `NAME@champion`, `NAME/VERSION`, or `SWEEP/TRIAL`.

# %%
model = orchestrator.load(f"{sweep.name}/{best}", storage=STORAGE)
task = model.tasks[0]
[answer] = model.predict(task, [{"text": "A film that I will see again."}])
print(task, answer.label, answer.probabilities)
