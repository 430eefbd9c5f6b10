# make demo and make test set everything up by themselves; see README.md.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,profile
RUN = $(VENV)/bin/python -m
INSTALLED = $(VENV)/.installed
DEMO ?= demo

.PHONY: test demo lint clean

test: $(INSTALLED)
	$(RUN) pytest $(PYTEST_FLAGS)

lint: $(INSTALLED)
	$(RUN) ruff check .
	$(RUN) mypy

$(INSTALLED): setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)
