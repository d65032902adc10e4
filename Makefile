# Each target makes .venv first when it is missing or older than what it was made from; nothing needs to be activated.
# Another interpreter: make test PYTHON=python3.12 (removes nothing: run `make clean-venv` first to change it).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Benchmarks of speed have an environment of their own: what they compare with brings many packages along.
BENCH_VENV := .venv-bench
BENCH_BIN := $(BENCH_VENV)/bin
BENCH_INSTALLED := $(BENCH_VENV)/.installed
# So have the tools that make a site of docs/.
DOCS_VENV := .venv-docs
DOCS_INSTALLED := $(DOCS_VENV)/.installed
SOURCES := sb3_ppo_plus tests examples benchmarks docs .ci setup.py
EXISTING := $(wildcard $(SOURCES))
# Small networks: one thread each and several tests at a time beats the reverse. One more than two cores: some tests wait.
PYTEST_WORKERS ?= 3
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format type bench bench-learning bench-envs bench-export bench-unity bench-gpu suites sb3-tests wheel-smoke
.PHONY: docs clean clean-venv

help:
	@echo "make setup           the virtual environment in $(VENV), from constraints.txt"
	@echo "make demo            teach a robot to run (two minutes), with learning curve and video"
	@echo "make test            the default tests (test-slow: learning over seeds, some minutes)"
	@echo "make lint            ruff check and format check (format: apply both)"
	@echo "make type            mypy"
	@echo "make bench           speed on this machine: gradient steps, training, start; beside SB3 and SBX (an hour)"
	@echo "make bench-learning  whether what is fast learns the same, and memory of long trainings (hours)"
	@echo "make bench-envs      environment steps per second, beside other ways to step MuJoCo (a quarter of an hour)"
	@echo "make bench-export    latency of one action of an exported file, beside model.predict (a minute)"
	@echo "make bench-unity     Unity's Python side on a stand-in game: 1, 2 and 4 workers (five minutes)"
	@echo "make bench-gpu       updates on a GPU, beside SB3's; needs CUDA and an environment of your own"
	@echo "make suites          other robotics suites, other versions of MuJoCo and protobuf, each in an environment of its own"
	@echo "make sb3-tests       Stable-Baselines3's own PPO tests, run on PPOPlus"
	@echo "make wheel-smoke     build the wheel and use it from a fresh environment"
	@echo "make docs            the documentation as a static site in build/site, every link checked"
	@echo "make clean           remove build output and caches (clean-venv: also $(VENV), $(BENCH_VENV) and $(DOCS_VENV))"

$(INSTALLED): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[mujoco,unity,export,tune,zoo,dev]"
	@touch $@

setup: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) --timeout 300

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) --timeout 900 -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check $(EXISTING)
	$(BIN)/ruff format --check $(EXISTING)

format: $(INSTALLED)
	$(BIN)/ruff check --fix $(EXISTING)
	$(BIN)/ruff format $(EXISTING)

type: $(INSTALLED)
	$(BIN)/mypy

$(BENCH_INSTALLED): pyproject.toml setup.py constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[mujoco,unity,export,dev]"
	@$(BENCH_BIN)/pip install --disable-pip-version-check -q -c constraints.txt -r benchmarks/requirements.txt \
	  || echo "note: SBX could not be installed; the benchmarks leave its rows out"
	@touch $@

bench: $(BENCH_INSTALLED)
	$(BENCH_BIN)/python benchmarks/update_speed.py
	$(BENCH_BIN)/python benchmarks/train_speed.py
	$(BENCH_BIN)/python benchmarks/start_speed.py

bench-learning: $(BENCH_INSTALLED)
	$(BENCH_BIN)/python benchmarks/same_learning.py
	$(BENCH_BIN)/python benchmarks/memory.py

bench-export: $(INSTALLED)
	$(BIN)/python benchmarks/export_latency.py

bench-unity: $(INSTALLED)
	$(BIN)/python benchmarks/unity_speed.py

# The environment is the user's own there: constraints.txt pins a build of torch for processors.
bench-gpu:
	$(PYTHON) benchmarks/gpu_update_speed.py

bench-envs: $(INSTALLED)
	$(BIN)/python benchmarks/env_speed.py

suites: $(INSTALLED)
	$(BIN)/python tests/suites/run_suites.py

sb3-tests: $(INSTALLED)
	$(BIN)/python tests/parity/run_sb3_suite.py --workers $(PYTEST_WORKERS)

wheel-smoke: $(INSTALLED)
	$(BIN)/python .ci/wheel_smoke.py

$(DOCS_INSTALLED): docs/requirements.txt
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --disable-pip-version-check -q -r docs/requirements.txt
	@touch $@

docs: $(DOCS_INSTALLED)
	$(DOCS_VENV)/bin/python docs/build_site.py

clean:
	rm -rf build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv*" -prune -exec rm -rf {} +

clean-venv: clean
	rm -rf $(VENV) $(BENCH_VENV) $(DOCS_VENV)
