# make demo    a plain request becomes a picture, in a real ComfyUI, from a quantized model
# make ui      the same ComfyUI left running, with the graph open for you
# make test    all tests: unit, real server, real browser
# make bench   the tables and charts of benchmarks/
# make miniature   the small trained world's checkpoints and LoRAs, in .run/models
#
# Each sets up what it needs in .venv/ and .comfyui/ and may be interrupted at any time.

PYTHON ?= python3.11
PY := .venv/bin/python
# A venv is ready for exactly these requirements: other content, other name, set up again.
READY := .venv/ready-$(shell cat requirements.txt requirements-dev.txt | sha256sum | cut -c1-16)

.PHONY: setup demo ui test lint bench miniature screenshots
.DEFAULT_GOAL := demo

demo: setup
	@$(PY) -m tools.demo

ui: setup
	@$(PY) -m tools.demo --ui

# One thread each: on a busy machine two that wait for each other are many times slower.
test: setup
	@$(PY) -m tools.browser
	OMP_NUM_THREADS=1 $(PY) -m pytest tests

lint: setup
	$(PY) -m ruff check .
	$(PY) -m pyright

bench: setup
	$(PY) -m benchmarks.selection
	$(PY) -m benchmarks.library_scale

miniature: setup
	@$(PY) -m miniature.manifest --check
	@$(PY) -m miniature.assemble --models .run/models --checkpoints

# The pictures of docs/ and the thumbnails of workflows/, from real runs.
screenshots: setup
	@$(PY) -m tools.browser
	OMP_NUM_THREADS=1 $(PY) -m tools.screenshots

setup: $(READY)
	@test -n "$(COMFYUI_PATH)" || $(PY) tools/host_setup.py

$(READY):
	@$(PYTHON) -c 'import ensurepip, sys, venv; assert sys.version_info[:2] == (3, 11)' 2>/dev/null || \
	{ echo "PersonalQ's tools need Python 3.11 with venv: apt install python3.11 python3.11-venv"; \
	  echo "(or name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS))"; exit 1; }
	@echo "Setting up .venv (some minutes, once) ..."
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet torch==2.13.0
	@$(PY) -m pip install --quiet torch==2.13.0 -r requirements.txt -r requirements-dev.txt
	@rm -f .venv/ready-* && touch $@
