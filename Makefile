PYTHON ?= $(shell command -v python3.11 || command -v python3)
SERVE := .venv
DEV := .venv-dev
PEERS := .venv-peers
DATA ?= ../shared/data
KEPT_OUT := .kept-out
PIP_FLAGS := --quiet --disable-pip-version-check -c constraints.txt

.PHONY: serve test lint stubs schema constraints bench clean help

help:
	@grep '^## ' $(MAKEFILE_LIST) | sed 's/^## /make /'

## serve: install what serving needs, fetch the embedded default models, serve on 127.0.0.1:50051
serve: $(SERVE)/installed
	$(SERVE)/bin/pointsman models pull
	exec $(SERVE)/bin/pointsman serve

## test: install what the tests need, and pass them
test: $(DEV)/installed
	$(DEV)/bin/python -m pytest $(PYTEST_FLAGS)

## lint: style, types, import contract, proto, stubs, Dockerfile, shipped intents
lint: $(DEV)/installed
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	$(DEV)/bin/buf lint
	$(DEV)/bin/python .ci/stubs.py --check
	$(DEV)/bin/python .ci/configuration.py --check
	$(DEV)/bin/hadolint Dockerfile
	$(DEV)/bin/pointsman check

## stubs: regenerate server/pointsman/v1 from proto/
stubs: $(DEV)/installed
	$(DEV)/bin/python .ci/stubs.py

## schema: regenerate docs/schema and docs/configuration.md
schema: $(DEV)/installed
	$(DEV)/bin/pointsman schema
	$(DEV)/bin/python .ci/configuration.py

## constraints: resolve constraints.txt anew
constraints: $(DEV)/installed
	$(DEV)/bin/python .ci/constraints.py

## bench: run every benchmark, one after the other, on an otherwise idle machine; DATA names the data folder
bench: $(DEV)/installed $(PEERS)/installed
	$(DEV)/bin/python benchmarks/quality.py --data $(DATA) --out benchmarks/results/quality.md
	$(DEV)/bin/python benchmarks/small_catalogs.py --data $(DATA) --out benchmarks/results/small_catalogs.md
	$(DEV)/bin/python benchmarks/tune.py --data $(DATA) --size few --out benchmarks/results/tune.md
	$(DEV)/bin/python benchmarks/tune.py --data $(DATA) --size full --out benchmarks/results/tune_full.md
	$(DEV)/bin/python benchmarks/promise.py --data $(DATA) --out benchmarks/results/promise.md
	$(DEV)/bin/python benchmarks/conversations.py --data $(DATA) --out benchmarks/results/conversations.md
	$(DEV)/bin/python benchmarks/difficulty.py --data $(DATA) --out benchmarks/results/difficulty.md
	$(DEV)/bin/python benchmarks/encoder.py --out benchmarks/results/encoder.md
	$(DEV)/bin/python benchmarks/route.py --data $(DATA)
	$(DEV)/bin/python benchmarks/reload.py --data $(DATA)
	$(DEV)/bin/python benchmarks/generate.py
	$(DEV)/bin/python benchmarks/adapters.py
	$(DEV)/bin/python benchmarks/keep_out.py --data $(DATA)/train --out $(KEPT_OUT)
	$(DEV)/bin/python benchmarks/cascade.py --data $(DATA)/train --validation $(KEPT_OUT)/validation --names support slots
	$(DEV)/bin/python benchmarks/twins.py --data $(KEPT_OUT)/train --name sql --out $(KEPT_OUT)/twins
	$(DEV)/bin/python benchmarks/cascade.py --data $(DATA)/train --validation $(KEPT_OUT)/validation --twins $(KEPT_OUT)/twins --names sql --out benchmarks/results/cascade_sql.md
	$(DEV)/bin/python benchmarks/train.py --data $(KEPT_OUT)/train/support_train.jsonl --eval $(DATA)/train/support_test.jsonl
	$(DEV)/bin/python benchmarks/policy.py
	$(DEV)/bin/python benchmarks/ledger.py
	$(DEV)/bin/python benchmarks/ledger_report.py
	$(DEV)/bin/python benchmarks/replay.py --data $(DATA)

$(PEERS)/installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	touch $@

# pip first: the one that comes with Python 3.11 takes half as long again for the rest. Serving imports a fraction of
# what is installed: it compiles that itself, and listens a quarter sooner.
$(SERVE)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/pip install $(PIP_FLAGS) --no-compile pip
	$(SERVE)/bin/pip install $(PIP_FLAGS) --no-compile -e '.[standard]'
	touch $@

# torch first and by itself: another package that brings it in would choose a CUDA build.
$(DEV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install $(PIP_FLAGS) pip
	$(DEV)/bin/pip install $(PIP_FLAGS) torch==2.13.0
	$(DEV)/bin/pip install $(PIP_FLAGS) -e '.[standard,encoder,train,ctransformers,policy,postgres,review,http,telemetry,dev]'
	touch $@

clean:
	rm -rf $(SERVE) $(DEV) $(PEERS) $(KEPT_OUT)
