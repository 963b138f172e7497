PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# uv installs the 6 GB environment from its cache in seconds; pip bootstraps it
UV     := $(BIN)/uv pip install --quiet --python $(BIN)/python

# every test that starts a process would compile PyTorch, timm and Prefect again: 10 s each
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow check format docs gpu-check clean

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

$(BIN)/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tagger needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.demo: pyproject.toml $(BIN)/uv
	$(UV) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(BIN)/uv
	$(UV) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

PACKAGES := $(VENV)/lib/python3*/site-packages
PHOTOS := $(addprefix skimage/data/,chelsea.png coffee.png motorcycle_left.png rocket.jpg camera.png) \
  $(addprefix sklearn/datasets/images/,china.jpg flower.jpg)

demo: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo: $(VENV)/.demo  ## install, tag photographs with an ImageNet model, query the table, write a report
	@mkdir -p .demo/photos
	@cp $(addprefix $(PACKAGES)/,$(PHOTOS)) .demo/photos
	@head -c 110000 $(PACKAGES)/sklearn/datasets/images/flower.jpg > .demo/photos/truncated.jpg
	@echo "this is no photograph" > .demo/photos/text.jpg
	tagger tag .demo/photos --out .demo/results
	tagger query .demo/results "SELECT parse_filename(uri) AS file, status, top_tag, top_score, candidates[:3] AS candidates FROM images ORDER BY ALL"
	tagger query .demo/results
	tagger report .demo/results --out .demo/report.html

# one test opens the benchmark's report in a browser; it skips where there is none and root may not install one
$(VENV)/.browser: $(VENV)/.dev
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	{ test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } \
	>/dev/null 2>&1 || echo "no Chromium: the report is not opened in a browser"
	@touch $@

# tests compare sidecars with exiftool and skip that where root may not install it
$(VENV)/.exiftool: $(VENV)/.dev
	@command -v exiftool >/dev/null || \
	{ test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y --no-install-recommends libimage-exiftool-perl; } \
	>/dev/null 2>&1 || echo "no exiftool: sidecars are not compared with it"
	@touch $@

# an emulator of Azure Blob Storage; its tests skip where there is no npm
$(VENV)/.azurite: $(VENV)/.dev
	@command -v npm >/dev/null && npm install --silent --prefix $(VENV)/azurite azurite@3 >/dev/null 2>&1 \
	|| echo "no npm: Azure Blob Storage is not tested"
	@touch $@

# axe-core checks the accessibility of the pages in the browser; its tests skip where there is no npm
$(VENV)/.axe: $(VENV)/.dev
	@command -v npm >/dev/null && npm install --silent --prefix $(VENV)/axe axe-core@4 >/dev/null 2>&1 \
	|| echo "no npm: the accessibility of the pages is not tested"
	@touch $@

test: $(VENV)/.browser $(VENV)/.azurite $(VENV)/.axe $(VENV)/.exiftool  ## install what tests need and run them, but for the long ones
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-slow: $(VENV)/.browser $(VENV)/.azurite $(VENV)/.axe  ## run the long tests: kills, clusters, trainings, the wheel
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

check: $(VENV)/.dev  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite to the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# GPU_DATA: photos, mnv2 (a backbone in timm's layout), hy (labelled images), cifar10_jpeg.tar.gz; GPU_PYTHON has torch with CUDA
GPU_DATA ?= .gpu/data
GPU_PYTHON ?= python3
GPU_FLAGS ?=

gpu-check:  ## on a machine with a GPU: tagging and training beside a plain timm loop, as one table
	$(GPU_PYTHON) -m benchmarks.gpu --photos $(GPU_DATA)/photos --model local-dir:$(GPU_DATA)/mnv2 \
	  --labelled $(GPU_DATA)/hy --cifar $(GPU_DATA)/cifar10_jpeg.tar.gz $(GPU_FLAGS)

docs: $(VENV)/.dev  ## write the command reference from --help
	$(BIN)/python -m docs.generate

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) .demo
