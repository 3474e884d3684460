# What every target does: `make help`. CI calls the same targets (.ci/run).

PY := .venv/bin/python

# Any Python 3 can start the set-up; it then looks for a suitable one, or takes PYTHON=.
STARTERS := python3 python3.12 python3.11 python3.10 python

# The tests' tensors are tiny, and some tests start processes of their own.
ONE_THREAD := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}

.DEFAULT_GOAL := help
.PHONY: help env env-tensorflow demo test test-slow test-tensorflow bench bench-gpu lint clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24
	@echo '  ARGS="..." goes on to demo, test, test-slow, bench and bench-gpu; PYTHON=/path/to/python3.11 to env.'

env: ## make or complete .venv: Detectron2 0.6, PyTorch, axial_d2 (5 GB, once)
	@for p in "$(PYTHON)" $(STARTERS); do \
		if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2>/dev/null; then \
			PYTHON="$(PYTHON)" exec "$$p" tools/setup_env.py; \
		fi; \
	done; \
	echo 'make env: no Python 3 found; install Python 3.10, 3.11 or 3.12 (Debian, Ubuntu:' \
		'apt install python3 python3-venv) or name one: make env PYTHON=/path/to/python3.11' >&2; exit 1

env-tensorflow: env ## make .venv-tensorflow, which reads DeepLab2's checkpoints (1.7 GB, once)
	@$(PY) tools/setup_tensorflow.py

demo: env ## build the demo data set, train on it, evaluate, draw (10 minutes on 2 cores)
	$(PY) tools/run_demo.py $(ARGS)

test: env ## the test suite
	$(ONE_THREAD) $(PY) -m pytest $(ARGS)

test-slow: env ## the tests that take minutes
	$(ONE_THREAD) $(PY) -m pytest -m slow $(ARGS)

bench: env ## time and memory on the CPU beside our peers, into benchmarks/README.md (13 minutes)
	$(PY) benchmarks/run.py $(ARGS)

bench-gpu: env ## the same on a GPU
	$(PY) benchmarks/run.py --device cuda $(ARGS)

test-tensorflow: env-tensorflow ## the tests that write and read TensorFlow's checkpoints
	$(ONE_THREAD) TF_CPP_MIN_LOG_LEVEL=2 .venv-tensorflow/bin/python -m pytest \
		tests/weights/test_deeplab2_tensorflow.py $(ARGS)

lint: env ## ruff (style and format) and mypy (types)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean: ## remove caches and build leftovers; keeps .venv, datasets and output
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
