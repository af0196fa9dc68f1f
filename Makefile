# Each target makes the virtual environment when it is missing or older than its requirements.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# What measures on any machine and needs nothing named; whole sweeps and a GPU's numbers are asked for by hand.
BENCHMARKS := useful_tokens packed_step adapter_step trial_start packed_bf16 methods

# The daily loop: the layout, and what takes no cluster, database or training (94 core-seconds).
CHECKED := tests/test_layout.py tests/orchestrator/cluster tests/orchestrator/test_documentation.py \
	tests/curlora/cur $(addprefix tests/orchestrator/, base/test_files.py api/test_differences.py cli/output \
	data measures records/test_events.py records/test_journal.py registry report \
	spec/test_experiment.py spec/test_methods.py spec/test_setting_bounds.py spec/test_task_files.py \
	sweep/proposing/test_search.py system)

.PHONY: demo test check lint bench venv clean

demo: venv
	$(BIN)/python -m orchestrator.demo
	$(BIN)/orchestrate sweep experiments/demo.yaml

# Three processes: all tests that need Ray are in one of them, share its cluster, and mostly wait.
test: venv
	$(BIN)/pytest -n 3 --dist loadgroup

check: venv
	$(BIN)/pytest -n 2 --dist loadgroup -m "not slow and not ray and not gpu" $(CHECKED)

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: venv
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done
	$(BIN)/python benchmarks/sweep_throughput.py steady

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, got $$($(PYTHON) --version 2>&1). Name one: make venv PYTHON=python3.12"; \
	  exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the packages of constraints.txt into .venv (takes a few minutes, once)"
	@# torch first: the build of DeepSpeed looks for it.
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,quantised]'
	@echo "Compiling what DeepSpeed needs on this machine (once)"
	@$(BIN)/orchestrate doctor --build
	@touch $@

clean:
	rm -rf .venv .demo .pytest_cache .ruff_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
