# make setup          the commands, in .venv; TORCH_INDEX=https://download.pytorch.org/whl/cpu: PyTorch without CUDA
# make docs           the documentation as a site, opened from disk: out/docs/index.html
# make cub200-table   the trait table, with all steps before it (see README.md for CUB=, MODEL=, ...)
# make cub200-choice  a comparison of SAE settings, on a validation part of the training images
# make birds-page     a page and pictures of the SAEs and latents of that table: out/cub200/page-.../index.html
# make camvid-page    the same for street scenes with masks: CAMVID=, and MODEL=, WEIGHTS=, LAYERS= as above
# make camvid-probes  probes of all latents of an SAE and of baselines for the classes of CamVid: CAMVID=, PROBES_WEIGHTS=
# make birds-edits    what an edit of a latent does, against the same bird drawn again: docs/edits.md
# make device-check   that table on DEVICE=cuda and on the CPU: their differences; exit code 1 if they are too large
# make sweep          a whole sweep on this machine: SWEEP=sweeps/birds.yml SET='tokens=1M layers=[7]'
# make test           lint, types and tests; make test-slow: the longer tests
# make screenshots    the pictures that the tests compare the page's views with, after a change of how it looks
# make campaign       kills, full disks, damaged files, interrupts, ...: docs/reliability.md; SEED= KILLS= CORRUPTIONS= ..., ONLY=
# make test-oldest   tests with the lower bound of every dependency; make test-python PYTHON=python3.13: with another Python
#
# File names contain a digest of the settings they depend on. So a changed setting makes new files only in
# the steps that depend on it, and the old files are found again when the setting is changed back.

# GNU make 3.81 (macOS) and later. It knows no .SHELLFLAGS: recipes of several commands begin with $(strict).
SHELL := /bin/bash
strict := set -eu -o pipefail;
.DELETE_ON_ERROR:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
TOOLS := $(patsubst %/pyproject.toml,%,$(wildcard tools/*/pyproject.toml))

# The table: data and model. The default is the example; with another MODEL, give WEIGHTS yourself if needed.
CUB ?= data/birds
ifndef MODEL
MODEL := timm/test_vit2
WEIGHTS ?= examples/birds/vit.safetensors
LAYERS ?= 7
# Chosen by `make cub200-choice` on validation images: docs/controls.md.
SAE ?= --d-sae 1024 --activation relu --l1 3e-2 --start-l0 0 --tokens 600k
else ifndef LAYERS
$(error MODEL=$(MODEL) needs LAYERS=L,L,... too: 0 is the first block)
endif
# Any other options of dump-acts: DUMP='--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5'
DUMP ?=
OUT ?= out/cub200
DEVICE ?= auto
# Everything random is repeated with SEEDS seeds, from SEED on.
SEED ?= 0
SEEDS ?= 3

# The SAEs, one per layer and seed. SAE: any options of train-sae; the others override it (empty: not given).
SAE ?= --d-sae 2048 --k 16 --tokens 2M
D_SAE ?=
K ?=
TOKENS ?=
LR ?=

# The scorers to compare with; the SAEs at initialisation are always added.
SCORERS ?= const units-both pca-both:64 random:1024 random-centred:1024 kmeans:1024 linear
N_TRAIN ?= 16,64,all

comma := ,
empty :=
space := $(empty) $(empty)
sha256 := $(shell command -v sha256sum >/dev/null && echo sha256sum || echo shasum -a 256)
digest = $(shell printf '%s' '$(1)' | $(sha256) | cut -c1-8)
ifeq ($(call digest,test),)
$(error found neither sha256sum nor shasum, of which file names are made; install one of them)
endif
option = $(if $(2),$(1) '$(2)')
layers := $(subst $(comma), ,$(LAYERS))

seeds := $(subst $(space),$(comma),$(shell for ((i = $(SEED); i < $(SEED) + $(SEEDS); i++)); do echo $$i; done))
recording := $(abspath $(CUB)) $(MODEL) $(WEIGHTS) $(LAYERS) $(DUMP)
acts := $(OUT)/acts-$(call digest,$(recording))
sae_options := $(SAE) $(call option,--d-sae,$(D_SAE)) $(call option,--k,$(K)) $(call option,--tokens,$(TOKENS)) \
	$(call option,--lr,$(LR))
sae_id := $(call digest,$(acts) $(sae_options) $(seeds))
table_id := $(call digest,$(sae_id) $(SCORERS) $(N_TRAIN))
# The folder of a layer's SAEs has one file per seed; score-traits takes all of them by this name.
each_seed := seed={seed}.h5
table_of = $(OUT)/ap-$(table_id)-layer$(1).csv
tables := $(foreach layer,$(layers),$(call table_of,$(layer)))

SWEEP ?= sweeps/birds.yml
SET ?=

.PHONY: help setup cub200-table device-check birds-page camvid-page sweep docs test test-slow test-oldest test-python check clean
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: .venv/.installed

.venv/bin/python:
	$(PYTHON) -m venv .venv

PROJECTS := pyproject.toml setup.py shared/pyproject.toml $(TOOLS:%=%/pyproject.toml)
PIP_INSTALL := pip install --quiet --disable-pip-version-check

# $(watched) COMMAND: on a terminal, says every two seconds how far pip is, which shows its bars only with all of its other words.
# Without TMPDIR, downloads go below .venv, since /tmp is small on some machines.
watched = watched() { \
	ticker=; export TMPDIR="$${TMPDIR:-$$PWD/.venv}/setup-$$$$"; mkdir -p "$$TMPDIR"; \
	trap 'rm -rf "$$TMPDIR"; [ -z "$$ticker" ] || { kill $$ticker; printf "\r\033[K" >&2; }' EXIT; \
	if [ -t 2 ]; then while sleep 2; do printf '\r\033[K  %s s: %s downloaded, %s packages installed\r' $$SECONDS \
		"$$(du -sh "$$TMPDIR" 2>/dev/null | cut -f1)" \
		"$$(find "$${1%/bin/*}" -maxdepth 4 -name '*.dist-info' 2>/dev/null | wc -l | tr -d ' ')"; done >&2 & ticker=$$!; fi; \
	"$$@"; }; watched

# TORCH_INDEX: an index of PyTorch's own packages, such as https://download.pytorch.org/whl/cpu; empty: PyPI, with CUDA.
TORCH_INDEX ?=
tools_size := $(if $(TORCH_INDEX),1 GB on disk: one to three minutes,6 GB on disk with PyTorch and CUDA: 3 to 15 minutes \
	(without CUDA 2 GB: TORCH_INDEX, see README.md))

.venv/.installed: .venv/bin/python $(PROJECTS)
	$(if $(TORCH_INDEX),@echo 'Installing PyTorch from $(TORCH_INDEX): without CUDA up to 1 GB on disk$(comma) some minutes' >&2)
	$(if $(TORCH_INDEX),@$(strict) $(watched) $(BIN)/$(PIP_INSTALL) --index-url '$(TORCH_INDEX)' torch torchvision)
	@echo 'Installing the tools and what they need, up to $(tools_size)' >&2
	@$(strict) $(watched) $(BIN)/$(PIP_INSTALL) -e .
	touch $@

.venv/.installed-dev: .venv/.installed
	@echo 'Installing what the tests, the checks and the site of the documentation need, up to 0.3 GB on disk: a minute' >&2
	@$(strict) $(watched) $(BIN)/$(PIP_INSTALL) -e '.[dev]'
	touch $@

# SAELens has many dependencies that the tools do not need, so it gets its own environment on top of ours.
.venv/.installed-saelens: .venv/.installed-dev
	@echo 'Installing SAELens, to compare with, in an environment of its own: some minutes' >&2
	$(BIN)/python -m venv .venv/saelens
	$(strict) ours=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	over=$$(.venv/saelens/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	echo "import site; site.addsitedir('$$ours')" > "$$over/ours.pth"
	@$(strict) $(watched) .venv/saelens/bin/$(PIP_INSTALL) 'sae-lens>=6,<7'
	touch $@

# --- the table ---------------------------------------------------------------------------------------

cub200-table: $(tables)
	@$(strict) for table in $(tables); do grep '^|' $$table.log; done

data/birds/images.txt: $(wildcard examples/birds/*.py) | .venv/.installed
	$(BIN)/python examples/birds/make_birds.py data/birds

$(acts)/%/.complete: $(CUB)/images.txt $(WEIGHTS) | .venv/.installed
	$(BIN)/dump-acts '$(CUB)' --split $* --out $(@D) --model '$(MODEL)' $(call option,--weights,$(WEIGHTS)) \
		--layers='$(LAYERS)' $(DUMP) --device $(DEVICE) >/dev/null
	touch $@

$(OUT)/sae-$(sae_id)-layer%/.complete: $(acts)/train/.complete $(acts)/test/.complete
	$(BIN)/train-sae $(acts)/train --val $(acts)/test --layer=$* --out $(@D) $(sae_options) --grid 'seed=$(seeds)' \
		--device $(DEVICE) >/dev/null
	touch $@

$(OUT)/ap-$(table_id)-layer%.csv: $(OUT)/sae-$(sae_id)-layer%/.complete
	$(strict) $(BIN)/score-traits --train $(acts)/train --test $(acts)/test --traits '$(CUB)' --layer=$* $(SCORERS:%=--scorer %) \
		--scorer 'untrained:$(<D)/$(each_seed)' --scorer '$(<D)/$(each_seed)' --n-train '$(N_TRAIN)' --seed $(SEED) \
		--repeats $(SEEDS) --device $(DEVICE) --summary --out $@ 2>&1 >/dev/null | tee $@.log >&2

# --- choosing settings: the training images are split in two, the test images are not used --------------

VALIDATION ?= 0.2
TOPK_GRID ?= objective=mse,matryoshka k=8,16,32 d_sae=1024
RELU_GRID ?= l1=1e-2,3e-2,1e-1 start_l0=0,32 d_sae=1024
CHOICE_TOKENS ?= 600k

parts := $(OUT)/parts-$(call digest,$(recording) $(VALIDATION))
choice_id := $(call digest,$(parts) $(TOPK_GRID) $(RELU_GRID) $(CHOICE_TOKENS) $(seeds))

.PHONY: cub200-choice
cub200-choice: $(layers:%=$(OUT)/choice-$(choice_id)-layer%/ap.csv)
	@$(strict) for table in $^; do $(BIN)/collect-runs $$table --by layer,activation,checkpoint --sort=-map \
		--columns map,map_sd,l0,nmse,nmse_standardized --format markdown 2>/dev/null; done

$(parts)/%/.complete: $(CUB)/images.txt $(WEIGHTS) | .venv/.installed
	$(BIN)/dump-acts '$(CUB)' --split $* --split-validation $(VALIDATION) --out $(@D) --model '$(MODEL)' \
		$(call option,--weights,$(WEIGHTS)) --layers='$(LAYERS)' $(DUMP) --device $(DEVICE) >/dev/null
	touch $@

$(OUT)/choice-$(choice_id)-layer%/ap.csv: $(parts)/train/.complete $(parts)/validation/.complete
	$(strict) train() { $(BIN)/train-sae $(parts)/train --val $(parts)/validation --layer=$* --tokens $(CHOICE_TOKENS) \
		--device $(DEVICE) "$$@" >/dev/null; }; \
	train --activation topk --out $(@D)/topk --grid 'seed=$(seeds) $(TOPK_GRID)'; \
	train --activation relu --out $(@D)/relu --grid 'seed=$(seeds) $(RELU_GRID)'; \
	scorers=$$(printf -- '--scorer=%s\n' $(@D)/*/seed=$(SEED)_*.h5 | sed 's/seed=$(SEED)_/seed={seed}_/'); \
	$(BIN)/score-traits --train $(parts)/train --test $(parts)/validation --traits '$(CUB)' --layer=$* $$scorers \
		--seed $(SEED) --repeats $(SEEDS) --device $(DEVICE) --out $@ >/dev/null

# Both start from the images, with one seed. A GPU rounds sums differently: benchmarks/device_chain.py sets the tolerance.
check_of = $(OUT)/device-check/$(call digest,$(recording) $(sae_options) $(SCORERS) $(SEED))-$(1)

device-check: .venv/.installed
	$(MAKE) cub200-table OUT='$(call check_of,reference)' DEVICE=cpu SEEDS=1 N_TRAIN=all
	$(MAKE) cub200-table OUT='$(call check_of,$(DEVICE))' SEEDS=1 N_TRAIN=all
	$(BIN)/python benchmarks/device_chain.py '$(call check_of,reference)' '$(call check_of,$(DEVICE))'

# --- pages: what the latents mean ---------------------------------------------------------------------

BY ?= species
PICTURES ?= --random 24 --spread
visuals_id := $(call digest,$(table_id) $(BY))

birds-page: $(layers:%=$(OUT)/page-$(visuals_id)-layer%/index.html) $(layers:%=$(OUT)/pictures-$(visuals_id)-layer%/index.csv)
	@printf '%s\n' $^

$(OUT)/latents-$(sae_id)-layer%/.complete: $(OUT)/sae-$(sae_id)-layer%/.complete $(acts)/test/.complete
	$(BIN)/encode-acts $(acts)/test --layer=$* --scorer $(<D)/seed=$(SEED).h5 --out $(@D) --device $(DEVICE) >/dev/null
	touch $@

$(OUT)/page-$(visuals_id)-layer%/index.html: $(OUT)/latents-$(sae_id)-layer%/.complete $(OUT)/ap-$(table_id)-layer%.csv
	$(BIN)/render-visuals page $(<D) --images '$(CUB)' --scorer $(OUT)/sae-$(sae_id)-layer$*/seed=$(SEED).h5 \
		--table $(OUT)/ap-$(table_id)-layer$*.csv --by '$(BY)' --out $(@D) >/dev/null

$(OUT)/pictures-$(visuals_id)-layer%/index.csv: $(OUT)/latents-$(sae_id)-layer%/.complete
	$(BIN)/render-visuals latents $(<D) --images '$(CUB)' $(PICTURES) --out $(@D) >/dev/null

# Street scenes keep their aspect ratio, as 12 x 16 patches; probes give the class of each latent.
CAMVID ?= data/camvid
CAMVID_OUT ?= out/camvid-page
CAMVID_GRID ?= native:192
CAMVID_SAE ?= --d-sae 1024 --k 16 --tokens 1M
camvid_acts := $(CAMVID_OUT)/acts-$(call digest,$(abspath $(CAMVID)) $(MODEL) $(WEIGHTS) $(LAYERS) $(CAMVID_GRID))
camvid := $(CAMVID_OUT)/$(call digest,$(camvid_acts) $(CAMVID_SAE) $(SEED))-layer

camvid-page: $(layers:%=$(camvid)%/page/index.html) $(layers:%=$(camvid)%/pictures/index.csv)
	@printf '%s\n' $^

$(camvid_acts)/%/.complete: $(wildcard $(CAMVID)/classes.txt) $(WEIGHTS) | .venv/.installed
	$(BIN)/dump-acts '$(CAMVID)' --split $* --out $(@D) --model '$(MODEL)' $(call option,--weights,$(WEIGHTS)) \
		--layers='$(LAYERS)' --grid $(CAMVID_GRID) --ignore 11 --device $(DEVICE) >/dev/null
	touch $@

$(camvid)%/sae.h5: $(camvid_acts)/training/.complete $(camvid_acts)/test/.complete
	mkdir -p $(@D)
	$(BIN)/train-sae $(camvid_acts)/training --layer=$* --out $@ $(CAMVID_SAE) --seed $(SEED) --device $(DEVICE) >/dev/null

$(camvid)%/probes/probes.csv: $(camvid)%/sae.h5
	$(strict) for split in training test; do $(BIN)/encode-acts $(camvid_acts)/$$split --layer=$* --scorer $< \
		--out $(<D)/$$split --device $(DEVICE) >/dev/null; done
	$(BIN)/fit-probes --train $(<D)/training --test $(<D)/test --out $(@D) >/dev/null

$(camvid)%/page/index.html: $(camvid)%/probes/probes.csv
	$(BIN)/render-visuals page $(camvid)$*/training --images '$(CAMVID)' --scorer $(camvid)$*/sae.h5 --table $< \
		--table $(<D)/latents.csv --class-names '$(CAMVID)/classes.txt' --out $(@D) >/dev/null

$(camvid)%/pictures/index.csv: $(camvid)%/probes/probes.csv
	$(BIN)/render-visuals latents $(camvid)$*/training --images '$(CAMVID)' --class-names '$(CAMVID)/classes.txt' \
		$(PICTURES) --out $(@D) >/dev/null

include examples/camvid/probes.mk
include examples/birds/edits.mk

# --- sweeps ------------------------------------------------------------------------------------------

sweep: .venv/.installed
	@mkdir -p out
	$(BIN)/expand-sweep '$(SWEEP)' $(foreach setting,$(SET),--set '$(setting)') --make >out/$(notdir $(basename $(SWEEP))).mk
	$(MAKE) -f out/$(notdir $(basename $(SWEEP))).mk

# --- the checks --------------------------------------------------------------------------------------

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-slow: .venv/.installed-saelens
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow
	.venv/saelens/bin/python -c 'import sae_lens'
	.venv/saelens/bin/python -m pytest tests/convert_sae/test_command.py -k real_saelens

.PHONY: screenshots
screenshots: .venv/.installed-dev
	SCREENSHOTS=renew $(BIN)/python -m pytest tests/render_visuals/test_views.py -k look_as_before

# Faults of every kind, in large numbers; each that is found says how to repeat it: ONLY=kills:SEED:NUMBER.
KILLS ?= 1000
INTERRUPTS ?= 200
FULL_DISKS ?= 200
CORRUPTIONS ?= 5000
MIXTURES ?= 200
PAIRS ?= 100
ONLY ?=
# Further options: CAMPAIGN='--jobs 4 --out campaign.md --keep FOLDER'
CAMPAIGN ?=

.PHONY: campaign
campaign: .venv/.installed
	$(BIN)/python tests/campaign $(if $(ONLY),--only '$(ONLY)',--seed $(SEED) --kills $(KILLS) \
		--interrupts $(INTERRUPTS) --disks $(FULL_DISKS) --corruptions $(CORRUPTIONS) --mixtures $(MIXTURES) \
		--pairs $(PAIRS)) $(CAMPAIGN)

# The lower bound of every dependency, and other interpreters: environments of their own. The fake GPU of some tests
# needs a newer torch.
ACROSS_TESTS ?= tests/saetools tests/check_files tests/collect_runs tests/convert_sae tests/encode_acts tests/expand_sweep \
	tests/fit_probes tests/fit_heads tests/audit_latents tests/dump_acts tests/train_sae/test_command.py tests/score_traits/test_table.py \
	tests/score_traits/test_fits.py tests/render_visuals/test_latents.py tests/render_visuals/test_plots.py --ignore tests/saetools/test_devices.py

test-oldest: .venv/oldest/.installed
	.venv/oldest/bin/python -m pytest -n 2 --dist worksteal -m 'not slow' $(ACROSS_TESTS)

.venv/oldest/.installed: $(PROJECTS) tests/support/lower_bounds.py
	$(PYTHON) -m venv .venv/oldest
	$(PYTHON) tests/support/lower_bounds.py >.venv/oldest/constraints.txt
	.venv/oldest/bin/$(PIP_INSTALL) -e '.[test]' -c .venv/oldest/constraints.txt
	touch $@

other := .venv/$(notdir $(PYTHON))

test-python: $(other)/.installed
	$(other)/bin/python -m pytest -n 2 --dist worksteal -m 'not slow' $(ACROSS_TESTS)

$(other)/.installed: $(PROJECTS)
	$(PYTHON) -m venv $(other)
	$(other)/bin/$(PIP_INSTALL) -e '.[test]'
	touch $@

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy shared/saetools $(patsubst %/cli.py,%,$(wildcard tools/*/*/cli.py)) docs/site/*.py
	$(BUILD_DOCS)

# With --quiet, --strict would have no effect. The variable leaves out an advertisement of the theme's authors.
BUILD_DOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: .venv/.installed-dev
	$(BUILD_DOCS)
	@echo out/docs/index.html
	@$(strict) if [ -n "$${DISPLAY:-}$${WAYLAND_DISPLAY:-}" ] || [ "$$(uname)" = Darwin ]; then \
	$(BIN)/python -c 'import webbrowser; from pathlib import Path; webbrowser.open(Path("out/docs/index.html").resolve().as_uri())'; fi

clean:
	rm -rf out data
