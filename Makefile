# One command each, `## in English ## and in Chinese` for `make help`. PYTHON=... uses that interpreter as it is and installs nothing.
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

help: ## this list ## 本列表
	@. toolkits/language.sh; sed -n "s/^\([a-z-]*\):.* ## \(.*\) ## \(.*\)/  make \1 \t$$(either '\2' '\3')/p" Makefile | expand -t 20

setup: ## .venv with what training needs (Transformer Engine where there is a GPU) ## .venv，含训练所需的一切（有 GPU 时含 Transformer Engine）
	$(SETUP)

setup-dev:
	$(SETUP) --dev

quickstart: setup ## the life of a small Llama 3.1, from text to report.html, under runs/quickstart ## 小型 Llama 3.1 的完整流程，从文本到 report.html，位于 runs/quickstart
	@sh examples/llama3_1/quickstart.sh

test: setup-dev ## all tests but the slow ones and those that need a GPU; JOBS=4 in four processes ## 除慢测试和需要 GPU 的测试外的全部测试；JOBS=4 用四个进程
	$(PYTEST) -m "not slow and not gpu"

test-all: setup-dev ## the slow ones too ## 包括慢测试
	$(PYTEST) -m "not gpu"

test-gpu: setup-dev ## those that need a GPU ## 需要 GPU 的测试
	$(RUN) pytest -m gpu

faults: setup-dev ## the fault campaign, hours; goes on where it was; PART=kills MOST=20 for a part of it; docs/reliability.md ## 故障注入测试，需数小时；从中断处继续；PART=kills MOST=20 只运行一部分；见 docs/reliability.md
	PYTHONPATH=tests $(RUN) faults $(PART) $(if $(MOST),--most $(MOST))

check: setup-dev ## ruff, mypy, shellcheck, hadolint ## ruff、mypy、shellcheck、hadolint
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	@echo "shellcheck: $(SHELL_FILES)"
	@$(dir $(shell command -v $(PYTHON)))shellcheck $(SHELL_FILES)
	$(dir $(shell command -v $(PYTHON)))hadolint Dockerfile
	@for file in $(SHELL_FILES); do case $$(head -n 1 $$file) in *bash*) bash -n $$file ;; *) sh -n $$file ;; esac || exit 1; done

format: setup-dev ## let ruff rewrite the Python files ## 用 ruff 重新排版 Python 文件
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean: ## remove what tools left behind, not runs/ and not .venv ## 删除各工具留下的文件，保留 runs/ 和 .venv
	find . \( -name .venv -o -name .git -o -name runs \) -prune -o -name __pycache__ -type d -print | xargs rm -rf
	rm -rf .pytest_cache .mypy_cache .ruff_cache build dist

clean-runs: ## remove runs/: the next quickstart starts over ## 删除 runs/：下次 quickstart 从头开始
	rm -rf runs

clean-venv: ## remove .venv: the next command installs anew ## 删除 .venv：下一条命令重新安装
	rm -rf .venv
