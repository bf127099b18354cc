# The two commands of the README, and what developers run. Everything happens in .venv, nothing outside this folder.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := .demo

.PHONY: demo test lint format clean

demo: $(BIN)/flashvsr
	mkdir -p $(DEMO)
	$(BIN)/python scripts/make_demo_clip.py $(DEMO)/input.mp4
	$(BIN)/flashvsr upscale $(DEMO)/input.mp4 -o $(DEMO)/upscaled.mp4 --model nano --device cpu --overwrite
	$(BIN)/flashvsr compare $(DEMO)/input.mp4 $(DEMO)/upscaled.mp4 --frames 4 --strip $(DEMO)/compared.png --overwrite
	@echo "Done: compare $(DEMO)/input.mp4 and $(DEMO)/upscaled.mp4; $(DEMO)/compared.png shows both,"
	@echo "the input enlarged by plain bicubic. The model was nano, the small one; the released model is far larger."

test: $(BIN)/.test
	$(BIN)/python -m pytest

lint: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/flashvsr: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(BIN)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(BIN)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
