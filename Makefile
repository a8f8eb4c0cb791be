# The companion's front door. `make help` lists what there is.

PYTHON ?= python3
PROFILE ?= quick
JOBS ?= $(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),2)
NB ?=
P ?=
PORT ?= 8000

# What is given reaches the programs as it is: make does not expand it, and shells find it in their environment.
GIVEN := PYTHON PROFILE JOBS NB P PORT
$(foreach name,$(GIVEN),$(if $(filter file,$(origin $(name))),,$(eval override $(name) := $$(value $(name)))))
export $(GIVEN)

BIN := .venv/bin
LPS := $(BIN)/python -m lps

# The environment is the lock's: its stamp carries a checksum of the lock and appears only after the last step, so a
# changed lock or an interrupted installation makes it again, and time stamps play no part.
STAMP := .venv/.installed-$(firstword $(shell cksum requirements.lock))

# glibc otherwise gives the memory of large maps back after each step, and gets it again page by page
MEMORY := glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.hugetlb=1
reproduce variant gpu: export GLIBC_TUNABLES ?= $(MEMORY)

# Modules are compiled when they are first imported, and only those: the installation leaves them uncompiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env check test lint claims reproduce variant compare bench book serve families gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PROFILE=quick      smoke, quick, reduced, converged, longer, short or full: how large the experiments are"
	@echo "  NB=table1          only these notebooks (reproduce, variant)"
	@echo "  P=\"seed=3 ...\"     parameters of those notebooks, on top of the profile's"
	@echo "  JOBS=2             notebooks executed at a time; make -j2 sets it too"
	@echo "  PYTHON=python3     the Python, 3.11 or newer, that .venv is made with"

env: $(STAMP) ## make .venv from requirements.lock

$(STAMP):
	@command -v "$$PYTHON" > /dev/null || { echo "$$PYTHON is not found: install Python 3.11 or newer, or name yours, as in \`make env PYTHON=python3.12\`." >&2; exit 1; }
	@"$$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$PYTHON is older than Python 3.11: install a newer one and name it, as in \`make reproduce PYTHON=python3.12\`." >&2; exit 1; }
	@"$$PYTHON" lps/notebooks/environment.py --before-install
	@echo "Installing the locked environment into .venv: about 3 minutes, 6 GB."
	@"$$PYTHON" -m venv --clear .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile --requirement requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -P lps/notebooks/environment.py
	@touch $@

check: lint ## before a commit: lint, and the quick tests
	$(BIN)/python -m pytest -q -m "not slow"

# a thread each: two processes that share the cores by threads wait for one another
test: env ## every test, all notebooks among them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: env ## ruff, mypy, and no outputs in notebooks
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

claims: env ## the ledger: which of the paper's claims hold on this machine
	$(LPS) claims

reproduce: env ## execute what is outstanding, judge the claims, build the book (NB= executes one notebook only)
	@set -f; $(LPS) notebooks $$NB --profile "$$PROFILE" --jobs "$$JOBS" --parameters "$$P"
	@$(if $(NB),echo "Executed copies are in build/notebooks/$$PROFILE; \`make book PROFILE=$$PROFILE\` builds the book once all have run.",$(MAKE) --no-print-directory book)

variant: env ## one notebook with other parameters: make variant NB=table1 P="antialias=bin-5 seed=3"
	@$(if $(NB),,echo "Name the notebook: make variant NB=table1 P=\"antialias=bin-5 seed=3\"" >&2; exit 2)
	@$(LPS) variant "$$NB" --profile "$$PROFILE" --parameters "$$P"

compare: env ## your runs beside the shipped ones and the paper's values
	$(LPS) compare --profile "$$PROFILE"

bench: env ## time the sampling layers on this machine: five minutes (on a GPU: python -m benchmarks --device cuda)
	$(BIN)/python -m benchmarks

book: env ## the ledger, and the book in build/html, from what has been executed
	@$(LPS) book --profile "$$PROFILE"

serve: ## the book at http://localhost:8000 (PORT=)
	"$$PYTHON" -m http.server --directory build/html "$$PORT"

families: env ## convert the networks of the book's survey, each in a process of its own; goes on where it stopped
	OMP_NUM_THREADS=1 $(LPS) survey families

# the machine's own Python, which may have torch, torchvision, pytorch-lightning, numpy and matplotlib alone; each part
# keeps the records that it has when its time is over, and the next part goes on
gpu: ## a quarter of an hour on a GPU: its tests, the benchmarks, Table 1 at full width (LPS_DATA= holds CIFAR-10)
	-timeout 150 "$$PYTHON" -m pytest -q tests/experiments/test_gpu.py tests/test_probe.py
	-"$$PYTHON" -m benchmarks --device cuda --budget 2m
	"$$PYTHON" -m lps run 'table1/*' --profile short --seeds 3 --budget 8m --quiet

clean: ## remove build/; .venv and your runs in results/local stay
	rm -rf build
