# Every target starts from a bare machine: Python 3.11 or newer and make. The first call sets up .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
DEMO ?= runs/demo

.PHONY: demo test test-long check bench viewer clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## train on the embedded phantom, score on a brain never seen, paint the map, write the report
	$(BIN)/brodmann fit patches-tiny --data phantom --out $(DEMO)
	$(BIN)/brodmann embed $(DEMO)
	$(BIN)/brodmann score $(DEMO) areas --target area
	$(BIN)/brodmann map $(DEMO) area

test: $(READY)  ## the default tests: offline, no GPU, minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not long" -n 2 --dist loadfile $(ARGS)

test-long: $(READY)  ## everything, with the kill storms and the story tests that train for minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

check: $(READY)  ## style, types, import contract, budgets, frozen flags
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: $(READY)  ## speed of reading, training and embedding on this machine
	$(BIN)/python benchmarks/bench_reading.py
	$(BIN)/python benchmarks/bench_training.py

viewer:  ## build the page of `brodmann view` from viewer/src (needs node; what it writes is committed)
	npm --prefix viewer ci --ignore-scripts --no-audit --no-fund
	cd viewer && npx tsc --noEmit && node build.mjs

clean:
	rm -rf .venv build dist src/*.egg-info
