# The verbs of this project. Each does its own set-up; on a fresh machine it needs Python 3.11+, git and make.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format bench clean

VENV ?= .venv
BIN := $(VENV)/bin
# Two files of tests beside each other; with arguments of your own one after the other.
PYTEST_ARGS ?= -n 2 --dist loadfile
BENCH_ARGS ?=
CODE := smartrealm atlas smartconfig smartclient healthcheck smartservice sidecar skeleton tests benchmarks scripts

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: setup.cfg pyproject.toml scripts/environment.sh
	@echo "setting up $(VENV) (once)"
	@scripts/environment.sh $(VENV) $(PYTHON)
	@touch $@

demo: $(VENV)/.ready  ## two services that call each other, then three hosts with sidecars: changed, deployed and killed under load
	@$(BIN)/python tests/install_servers.py haproxy
	@$(BIN)/python -m scripts.demo $(DEMO_ARGS)

test: $(VENV)/.ready  ## run every test (PYTEST_ARGS=... goes to pytest); installs the server programs on Debian as root
	@$(BIN)/python tests/install_servers.py
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-all:  ## run every test under each Python of 3.11, 3.12 and 3.13 that is here
	@for version in 3.11 3.12 3.13; do \
		if python$$version -c '' 2>/dev/null; then \
			$(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON=python$$version || exit 1; \
		else echo "python$$version is not here: skipped"; fi; done

check: $(VENV)/.ready  ## what CI checks: lint, format, types, layers
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --check --quiet $(CODE)
	@$(BIN)/mypy $(CODE)
	@$(BIN)/lint-imports --no-logo

format: $(VENV)/.ready  ## put the code into the format that `make check` wants
	@$(BIN)/ruff check --fix --quiet $(CODE)
	@$(BIN)/ruff format --quiet $(CODE)

bench: $(VENV)/.ready  ## measure every claim against its reference, in one run (BENCH_ARGS=NAME for one)
	@$(BIN)/python tests/install_servers.py
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:  ## remove what was built here
	rm -rf $(VENV) .venv-3.* build dist .demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
