# make demo           a learned policy moves the simulated JAKA arm over ROS 2 (about 3 minutes on a bare machine)
# make demo-bimanual  two arms in the stand-in for RoboTwin, moved by its scripted expert over ROS 2
# make test           linters, type checks and every test tier
# make full-size      a policy on a Qwen3-VL-2B of random weights, trained, exported and run on the CPU (half an hour, 16 GiB)
# They do all their own set-up: system libraries (apt, where permitted), .venv, Python packages.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# One thread a process: many processes share few cores, and single-threaded sums are reproducible.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo demo-bimanual test lint unit ros sim full-size clean

setup: $(READY)

$(READY): setup.py constraints.txt tools/setup.sh tools/vulkan.sh
	PYTHON=$(PYTHON) sh tools/setup.sh $(VENV)
	touch $@

demo: $(READY)
	$(BIN)/lavla demo

demo-bimanual: $(READY)
	$(BIN)/lavla demo-bimanual

test: lint unit sim ros

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file at a time on each core, in the order that test/conftest.py gives them. What holds deadlines of milliseconds runs
# with nothing heavy beside it.
ABREAST := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# The files that have such tests, and those that need all cores: no others are imported to find them.
TIMED = $(shell grep -l "mark\.timed" -r test/unit --include="test_*.py")
ALONE = $(shell grep -l "mark\.alone" -r test/ros --include="test_*.py")
# On a shared machine a deadline may be missed for want of a core. What fails beside other tests is tried twice more with
# nothing beside it, and is at fault if it fails there too. Every try is told.
define held
$(BIN)/python -m pytest -q $(ABREAST) $(1) || \
	{ test $$? -eq 1 && $(BIN)/python -m pytest -q --reruns 1 --last-failed --last-failed-no-failures none $(1); }
endef

unit: $(READY)
	$(BIN)/python -m pytest -q $(ABREAST) -m "not timed" test/unit
	$(call held,-m timed $(TIMED))

sim: $(READY)
	$(call held,test/sim)

ros: $(READY)
	$(call held,-m "not alone" test/ros)
	$(BIN)/python -m pytest -q --reruns 1 -m alone $(ALONE)

full-size: $(READY)
	OMP_NUM_THREADS= $(BIN)/python -m benchmarks.full_size $(FULL_SIZE)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
