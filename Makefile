# One command each. PYTHON=... uses that interpreter as it is and installs nothing.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev quickstart test test-all test-gpu faults check format clean clean-runs clean-venv

ifdef PYTHON
SETUP = @. toolkits/language.sh; either "make: PYTHON=$(PYTHON) is used as it is; nothing is installed" "make：直接使用 PYTHON=$(PYTHON)；不安装任何东西" \#
else
PYTHON := .venv/bin/python
SETUP := @sh toolkits/setup.sh
endif
RUN := $(PYTHON) -m
JOBS := 2
# whole files to each worker, the longest first (tests/conftest.py); every worker has a folder of its own for its files
PYTEST = $(RUN) pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
SHELL_FILES = $$(find . \( -name .venv -o -name .git -o -name runs -o -name .gpu \) -prune -o -name '*.sh' -print) .ci/run

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' Makefile | expand -t 20

setup: ## .venv with what training needs (Transformer Engine where there is a GPU)
	$(SETUP)

setup-dev:
	$(SETUP) --dev

quickstart: setup ## the life of a small Llama 3.1, from text to report.html, under runs/quickstart
	@sh examples/llama3_1/quickstart.sh

test: setup-dev ## all tests but the slow ones and those that need a GPU; JOBS=4 in four processes
	$(PYTEST) -m "not slow and not gpu"

test-all: setup-dev ## the slow ones too
	$(PYTEST) -m "not gpu"

test-gpu: setup-dev ## those that need a GPU
	$(RUN) pytest -m gpu

faults: setup-dev ## the fault campaign, hours; goes on where it was; PART=kills MOST=20 for a part of it; docs/reliability.md
	PYTHONPATH=tests $(RUN) faults $(PART) $(if $(MOST),--most $(MOST))

check: setup-dev ## ruff, mypy, shellcheck, hadolint
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	@echo "shellcheck: $(SHELL_FILES)"
	@$(dir $(shell command -v $(PYTHON)))shellcheck $(SHELL_FILES)
	$(dir $(shell command -v $(PYTHON)))hadolint Dockerfile
	@for file in $(SHELL_FILES); do case $$(head -n 1 $$file) in *bash*) bash -n $$file ;; *) sh -n $$file ;; esac || exit 1; done

format: setup-dev ## let ruff rewrite the Python files
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean: ## remove what tools left behind, not runs/ and not .venv
	find . \( -name .venv -o -name .git -o -name runs \) -prune -o -name __pycache__ -type d -print | xargs rm -rf
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist

clean-runs: ## remove runs/: the next quickstart starts over
	rm -rf runs

clean-venv: ## remove .venv: the next command installs anew
	rm -rf .venv
