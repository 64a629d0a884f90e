# Every target works on a fresh clone with Python >= 3.11 and make. With PYTHON=python3 it uses that interpreter as it
# is, and neither makes a virtual environment nor installs anything.
.DEFAULT_GOAL := help
.PHONY: help quickstart imagenet-smoke sweep report evidence published test test-slow test-clusters test-faults test-gpu gpu-day lint format benchmark benchmark-input benchmark-scale schema clean

ifdef PYTHON
PY := $(PYTHON)
else
PY := .venv/bin/python
RUN := .venv/.run
DEV := .venv/.dev
endif

# The CIFAR-10 studies that are published, in this order. Their runs lie outside the checkout, outlive it, and begin with what
# is published. The published runs read the images from an archive of PNG files, and only with it are they continued:
# make evidence ARGS='--set data.source=folder --set data.path=cifar10-png.tar.gz'. Otherwise all are trained anew.
EVIDENCE := class cpu-small warmup-plain classifier-small weight-decay-small shortcuts-small no-bn-small tuned-lr-small \
	train-a-plain-net-small cpu-small-long figure6-ends
EVIDENCE_FOLDER := $(HOME)/resexp-evidence/results

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(RUN) ## train a small grid on synthetic shapes and write its report: four to six minutes on two cores
	$(PY) -m resexp sweep
	$(PY) -m resexp report quickstart

imagenet-smoke: $(RUN) data/imagenet-smoke ## all that an ImageNet study does, on ten classes of small synthetic images
	$(PY) -m resexp sweep --config imagenet/smoke
	$(PY) -m resexp report smoke

data/imagenet-smoke: | $(RUN)
	rm -rf $@.part
	$(PY) -m resexp data example $@.part
	mv $@.part $@

sweep: $(RUN) ## train a study: make sweep CONFIG=cifar10/cpu-small
	$(PY) -m resexp sweep $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

report: $(RUN) ## write the report of the newest study, or of STUDY=results/NAME
	$(PY) -m resexp report $(STUDY)

evidence: $(RUN) ## train what is unfinished of the evidence, one run a core, behind all other work: tens of core-hours
	mkdir -p $(EVIDENCE_FOLDER) && cp -rn results/published/. $(EVIDENCE_FOLDER)
	for study in $(EVIDENCE); do \
	  nice -n 19 $(PY) -m resexp sweep --config cifar10/$$study --results $(EVIDENCE_FOLDER) --jobs $$(nproc) $(ARGS) || exit; \
	done

published: $(DEV) ## rebuild the published pages, and what the README quotes of their records
	$(PY) -m tests.published

test: $(DEV) ## run the tests, many of which wait for processes: one worker more than cores
	$(PY) -m pytest $(if $(PYTHON),,-n $$(($$(nproc) + 1)) --dist worksteal --timeout 300) $(ARGS)

test-slow: $(DEV) ## run the tests that take longest, most of them sweeps that are killed and continued
	$(PY) -m pytest -m slow $(if $(PYTHON),,-n $$(($$(nproc) + 1)) --timeout 600) $(ARGS)

test-clusters: $(DEV) ## run the tests on real clusters: torchrun, Ray, and Slurm where it is installed
	$(PY) -m pytest -m "torchrun or ray or slurm" $(if $(PYTHON),,-n auto --timeout 600) $(ARGS)

test-faults: $(DEV) ## kill, starve and damage sweeps and reports by the hundred, and count what was survived
	$(PY) -m pytest tests/faults -m "" $(if $(PYTHON),,-n auto --timeout 3600) $(ARGS)

test-gpu: $(DEV) ## run the tests that need a CUDA GPU
	$(PY) -m pytest tests/gpu $(ARGS)

DEVICE := cuda
BUDGET := 540
OUT := results/gpu-day

gpu-day: $(DEV) ## all that is asked of a GPU, in BUDGET seconds, continued by the next call; DEVICE=cpu tries it in miniature
	$(PY) -m tests.gpu.day --device $(DEVICE) --budget $(BUDGET) --folder $(OUT)/work --out $(OUT) $(ARGS)

lint: $(DEV) ## ruff and strict mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(DEV) ## let ruff rewrite the sources
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

benchmark: $(DEV) ## how much each optimisation speeds up a step; see also resexp bench
	$(PY) -m tests.benchmarks.choices

benchmark-input: $(DEV) ## what an image of ImageNet costs a core: make benchmark-input IMAGES=folder-of-jpegs
	$(PY) -m tests.benchmarks.imagenet_input $(IMAGES)

benchmark-scale: $(DEV) ## what a study of 10,000 runs costs besides its training
	$(PY) -m tests.benchmarks.scale

schema: $(RUN) ## write the JSON Schema that editors check study files with
	$(PY) -m resexp schema > configs/study.schema.json

clean: ## remove the virtual environment and all caches; results stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "resexp needs Python 3.11 or newer")'
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip

.venv/.run: .venv/bin/python pyproject.toml .ci/constraints.txt
	.venv/bin/python -m pip install --quiet --constraint .ci/constraints.txt --editable .
	touch $@

.venv/.dev: .venv/.run
	.venv/bin/python -m pip install --quiet --constraint .ci/constraints.txt --group dev
	touch $@
