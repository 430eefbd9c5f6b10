# make demo and make test set everything up by themselves; see README.md.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev,profile
RUN = $(VENV)/bin/python -m
INSTALLED = $(VENV)/.installed
DEMO ?= demo

.PHONY: test demo base lint clean

test: $(INSTALLED)
	$(RUN) pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(PYTEST_FLAGS)

# The whole path on phantoms: a base model from sparse annotation, then two structures that it never
# saw, learnt from three cases with and without it.
NETWORK = --filters=8 --padding=same --normalization=instance --patch_size=48 --window=-300,300
PHANTOM = $(RUN) data_tools.phantom --shape=64,54,64 --spacing=6,6,6
BASE_STRUCTURES = liver,left_lung,right_lung,spleen,heart,stomach
NEW_STRUCTURES = left_kidney,right_kidney

demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(call base_trained,32,$(BASE_STRUCTURES),--steps=450 --learning_rate=3e-3 --num_validation=2 --steps_per_epoch=90)
	$(PHANTOM) --output_dir=$(DEMO)/base/test --num_cases=4 --seed=100 \
	    --structures=$(BASE_STRUCTURES)
	$(call segmented,base/run,base/test,base)
	$(PHANTOM) --output_dir=$(DEMO)/new/dataset --num_cases=3 --seed=200 \
	    --structures=$(NEW_STRUCTURES)
	$(PHANTOM) --output_dir=$(DEMO)/new/test --num_cases=4 --seed=100 \
	    --structures=$(NEW_STRUCTURES)
	$(RUN) data_tools.shard --dataset_dir=$(DEMO)/new/dataset --output_dir=$(DEMO)/new/records
	$(call transferred,scratch)
	$(call transferred,finetune,--freeze='encoder_*' --head_steps=150)
	$(RUN) experiments.export --model=$(DEMO)/new/finetune/model --output_dir=$(DEMO)/served/kidneys
	$(RUN) experiments.report --output=$(DEMO)/report.html \
	    --scores=base=$(DEMO)/base/scores,scratch=$(DEMO)/new/scratch/scores,finetune=$(DEMO)/new/finetune/scores \
	    --runs=base=$(DEMO)/base/run,scratch=$(DEMO)/new/scratch,finetune=$(DEMO)/new/finetune \
	    --dataset_dir=$(DEMO)/base/test,$(DEMO)/new/test \
	    --predictions=$(DEMO)/base/segmented,$(DEMO)/new/finetune/segmented

# Remakes the base model that ships, as saved_models/README.md describes it, as its next version.
base: $(INSTALLED)
	rm -rf $(DEMO)/base
	$(call base_trained,64,$(BASE_STRUCTURES)$(COMMA)$(NEW_STRUCTURES)$(COMMA)aorta$(COMMA)bladder,--steps=1500 --learning_rate=5e-3 --num_validation=3 --steps_per_epoch=250)
	$(RUN) experiments.export --model=$(DEMO)/base/run/model --output_dir=saved_models/phantom_ct

# $(call base_trained,CASES,STRUCTURES,FLAGS)
COMMA = ,
define base_trained
	$(PHANTOM) --output_dir=$(DEMO)/base/dataset --num_cases=$(1) --structures=$(2) \
	    --annotated_slices=0.4 --annotated_structures=0.75
	$(RUN) data_tools.shard --dataset_dir=$(DEMO)/base/dataset --output_dir=$(DEMO)/base/records
	$(RUN) experiments.train_base --records_dir=$(DEMO)/base/records --output_dir=$(DEMO)/base/run \
	    $(NETWORK) $(3)
endef

# $(call segmented,RUN,TESTSET,OUTPUT)
define segmented
	$(RUN) experiments.segment --model=$(DEMO)/$(1)/model --input=$(DEMO)/$(2)/imagesTr \
	    --output=$(DEMO)/$(3)/segmented
	$(RUN) experiments.evaluate --prediction=$(DEMO)/$(3)/segmented \
	    --reference=$(DEMO)/$(2)/labelsTr --output_dir=$(DEMO)/$(3)/scores
endef

# $(call transferred,MODE,FLAGS)
define transferred
	$(RUN) experiments.transfer --base=$(DEMO)/base/run/model --mode=$(1) --steps=200 --learning_rate=3e-3 \
	    $(2) --records_dir=$(DEMO)/new/records --output_dir=$(DEMO)/new/$(1)
	$(call segmented,new/$(1),new/test,new/$(1))
endef

lint: $(INSTALLED)
	$(RUN) ruff check .
	$(RUN) mypy

$(INSTALLED): setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check --upgrade pip
	$(RUN) pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)
