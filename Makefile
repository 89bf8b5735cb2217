# The few commands a person types. `make demo` is the whole road on real data; `make up` the servers.

PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
    $(name) -c 'import sys; print("$(name)" if (3, 11) <= sys.version_info < (3, 14) else "")' 2>/dev/null)))
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test lint bench bench-accuracy bench-active-learning families faults kill long mutants nights projects schema servers simulate up
.DEFAULT_GOAL := demo

demo: .venv/ready  ## the main job on handwritten digits: ingest, train, register, predict
	convoy demo

test: .venv/ready lint  ## lint, types, import direction, then the test suite in two processes (half an hour)
	OMP_WAIT_POLICY=PASSIVE python -m pytest -n 2 --dist loadfile

lint: .venv/ready
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: .venv/ready  ## what the README claims, measured beside the peers
	for name in ingest train predict; do python -m benchmarks.$$name || exit 1; done

bench-accuracy: .venv/ready  ## the default model beside other recipes on six sets of pictures (two hours)
	python -m benchmarks.accuracy

bench-active-learning: .venv/ready  ## labels that `predict --review` needs, beside chance and other selections (ten minutes)
	python -m benchmarks.active_learning

simulate: .venv/ready  ## false promotions, false alarms of drift checks, and the power of both: the tables of the docs (an hour)
	python -m benchmarks.promotion
	python -m benchmarks.drift

families: .venv/ready  ## each family of networks for a minute at most on two sets: the README's table (half an hour)
	python -m benchmarks.networks

kill: .venv/ready  ## kill ingest, normalize, train and predict at many moments; what comes of the next run must be the same
	python -m tests.scenarios.kill
	python -m tests.scenarios.kill_predict
	python -m tests.scenarios.kill_training

faults: .venv/ready  ## every command under kills, signals, failing disks and flipped bits: a table (hours; goes on where it stopped)
	mkdir -p .cache
	for part in 1 2; do python -m tests.scenarios.faults --part $$part/2 --work .cache/faults/$$part \
	    --out .cache/faults.json $(FAULTS) > .cache/faults-$$part.log & done; wait
	python -m tests.scenarios.faults --out .cache/faults.json --table

mutants: .venv/ready  ## small changes to what decides, each of which a test must notice (hours; MUTANTS="--only ledger" for some)
	python -m tests.scenarios.mutants $(MUTANTS)

nights: .venv/ready  ## fourteen nights of one project, then all its records compared; KEEP=FOLDER keeps the project there
	python -m tests.scenarios.nights $(KEEP)
	python -m pytest tests/scenarios/test_nights.py -m long

projects: .venv/ready  ## projects elsewhere, from the wheel: made, moved, copied, cloned, served, with code of their own
	python -m pytest tests/scenarios/test_installed.py tests/scenarios/test_moves.py tests/scenarios/test_project_code.py -m long

long: .venv/ready  ## the tests that are too long for `make test`, except those of nights, projects and servers (half an hour)
	python -m pytest tests -m long $(addprefix --ignore=tests/scenarios/test_,nights.py servers.py installed.py moves.py project_code.py)

servers: .venv/ready  ## all of it on servers as in production: PostgreSQL, S3, MLflow, Prefect, a worker (a quarter of an hour)
	python -m pytest tests/scenarios/test_servers.py -m long

schema: .venv/ready  ## params.schema.json, by which editors complete and check params.yaml
	python -m flows.project.params_schema

up: .venv/ready  ## MLflow's UI, Prefect's server, the schedules and a worker, until Ctrl-C
	convoy up

.venv/ready: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; name one: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c requirements.lock -e '.[dev]'
	touch $@
