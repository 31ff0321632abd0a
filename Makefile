# Every target makes its own .venv when there is none. PYTHON chooses the interpreter (3.11 or 3.12).
PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime
STAMP := .venv/.installed
# The tests' three guises: as the machine is, as one with AVX2 only, without fast paths.
AVX2 := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
PLAIN := SOUNDSTAGE_FAST_PATHS=off
# Most of this file sets guises itself; what is left is both at once, and threads with AVX2.
GUISED := tests/unit/test_guises.py
# What is stuck in native code, where pyproject's limit does not reach, ends its process with its stacks. A test
# that hung is tried once more, which the summary tells: one machine had such a hang, whose cause is not known.
GUARD := -o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true \
	--reruns 1 --only-rerun "from pytest-timeout" -rfER

.PHONY: demo film test test-full check fix docs nano clean

demo: $(RUNTIME)  ## make a clip with sound, and its contact sheet, in outputs/
	mkdir -p outputs
	$(BIN)/soundstage generate "A red ball drops onto a wooden floor, bouncing three times. The camera is static. A thud sounds with each bounce." \
		--seed 7 --output outputs/demo.mp4 --contact-sheet --force

film: $(RUNTIME)  ## a film of a minute in outputs/film: what was made and not changed is kept
	$(BIN)/python -m pip install --quiet --compile -e ".[film]"
	mkdir -p outputs
	$(BIN)/soundstage produce examples/film/two-friends.yaml --output outputs/film

# Each process takes tests that stand together: modules make their clips and models once.
test: $(STAMP)  ## under 15 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal $(GUARD)
	OMP_NUM_THREADS=1 $(AVX2) $(BIN)/python -m pytest $(GUISED) -k "same_bits or plain"

test-full: $(STAMP)  ## everything, the slow checks included
	$(BIN)/python -m pytest
	$(AVX2) $(BIN)/python -m pytest -m "not slow"
	$(PLAIN) $(BIN)/python -m pytest -m "not slow"

check: $(STAMP)  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## write docs/cli.md, the tables of fields and the list of rooms from the code
	$(BIN)/python -m soundstage.cli.reference > docs/cli.md
	$(BIN)/python -m soundstage.fields.tables docs/*.md
	$(BIN)/python -m tests.house

nano: $(STAMP)  ## train all parts of nano from nothing and install the weights into the package
	$(BIN)/soundstage nano train all

# What running needs. Modules are compiled here, not by the first clip.
$(RUNTIME): pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --compile -e .
	$(BIN)/python -m compileall -q soundstage
	touch $(RUNTIME)

# What the tests, the checks and training need besides.
$(STAMP): $(RUNTIME)
	$(BIN)/python -m pip install --quiet --compile -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf .venv outputs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
