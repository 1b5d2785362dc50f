# Part of the Makefile. Activations of CamVid -> SAEs and baselines -> latents -> probes -> a table on stdout:
#   make camvid-probes CAMVID=/data/camvid PROBES_WEIGHTS=/data/vit_tiny_patch16_224.safetensors
# Choose settings on the validation frames (PROBES_TEST=validation), then use the test frames once. Each row with a seed is a mean
# over SEEDS seeds. CAMVID contains images/SPLIT/*.jpg and annotations/SPLIT/*.png; mask value 11 means no class.
# docs/probes.md has the table.

CAMVID ?= data/camvid
PROBES_MODEL ?= timm/vit_tiny_patch16_224
PROBES_WEIGHTS ?=
PROBES_DUMP ?= --grid native:300 --ignore 11 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5
PROBES_LAYER ?= 11
PROBES_TRAIN ?= training
PROBES_VALIDATION ?= validation
PROBES_TEST ?= test
PROBES_SAE ?= --d-sae 1024 --k 32 --objective matryoshka --tokens 500k
PROBES_BASELINES ?= random:1024 random-centred:1024 kmeans:1024 pca:192
# TAU must be above the prevalence of the most common class (road: 0.31), which is the AP of a constant.
PROBES_TAU ?= 0.5

probes_seeds := $(subst $(comma), ,$(seeds))
probes_acts := out/camvid-probes/acts-$(call digest,$(abspath $(CAMVID)) $(PROBES_MODEL) $(PROBES_WEIGHTS) $(PROBES_DUMP) $(PROBES_LAYER))
probes_out := out/camvid-probes/$(call digest,$(probes_acts) $(PROBES_TRAIN) $(PROBES_VALIDATION) $(PROBES_SAE) $(PROBES_BASELINES))
probes_tables := $(probes_out)/probes-$(PROBES_TEST)-$(PROBES_TAU)
probes_kinds := $(foreach baseline,$(PROBES_BASELINES),$(firstword $(subst :, ,$(baseline))))
# Random scorers have one row per seed; components and units do not depend on the seed.
probes_seeded := sae untrained $(filter-out pca,$(probes_kinds))
probes_names := $(foreach kind,$(probes_seeded),$(probes_seeds:%=$(kind)-seed%)) units $(filter pca,$(probes_kinds))
# Values to keep: all for scores of both signs; only those above 0 for latents of SAEs and k-means.
probes_keep = $(if $(filter sae-% untrained-% kmeans-%,$(1)),,--threshold=-inf)

.PHONY: camvid-probes
camvid-probes: $(probes_names:%=$(probes_tables)/%/.complete)
	@$(BIN)/collect-runs $(probes_names:%=$(probes_tables)/%/summary.csv) --by scorer,n_latents --sort=-map --format markdown \
		--columns 'runs,r,map,$(if $(word 2,$(probes_seeds)),map_sd$(comma))f1,purity@16,purity@16_n,purity@16_all,purity@16_all_n,coverage@$(PROBES_TAU)'

$(probes_acts)/%/.complete: | .venv/.installed
	$(BIN)/dump-acts '$(CAMVID)' --split $* --out $(@D) --model '$(PROBES_MODEL)' --layers=$(PROBES_LAYER) \
		$(call option,--weights,$(PROBES_WEIGHTS)) $(PROBES_DUMP) --device $(DEVICE) >/dev/null
	touch $@

probes_splits := $(probes_acts)/$(PROBES_TRAIN)/.complete $(probes_acts)/$(PROBES_VALIDATION)/.complete
probes_train_sae = $(BIN)/train-sae $(probes_acts)/$(PROBES_TRAIN) --val $(probes_acts)/$(PROBES_VALIDATION) $(PROBES_SAE) \
	--seed $* --out $@ --device $(DEVICE)

$(probes_out)/sae-seed%.h5: $(probes_splits)
	mkdir -p $(@D)
	$(probes_train_sae) >/dev/null

$(probes_out)/untrained-seed%.h5: $(probes_splits)
	mkdir -p $(@D)
	$(probes_train_sae) --tokens 0 >/dev/null

$(probes_out)/fitted-seed%/.complete: $(probes_splits)
	$(BIN)/score-traits --train $(probes_acts)/$(PROBES_TRAIN) --test $(probes_acts)/$(PROBES_VALIDATION) --patch-traits \
		$(PROBES_BASELINES:%=--scorer %) --save-scorer $(@D) --out $(@D)/ap.csv --seed $* --device $(DEVICE) >/dev/null
	touch $@

# The scorer of a row KIND-seedN or KIND: a file written by train-sae or score-traits, or the name units.
$(probes_tables)/%/.complete: $(probes_acts)/$(PROBES_TEST)/.complete \
		$(probes_seeds:%=$(probes_out)/sae-seed%.h5) $(probes_seeds:%=$(probes_out)/untrained-seed%.h5) $(probes_seeds:%=$(probes_out)/fitted-seed%/.complete)
	$(strict) name=$*; seed=$${name##*-seed}; kind=$${name%-seed*}; scorer=units; \
	for file in $(probes_out)/$$name.h5 $(probes_out)/fitted-seed$$seed/*-$$kind-[0-9]*-seed$$seed.h5 \
			$(probes_out)/fitted-seed$(firstword $(probes_seeds))/*-$$name-[0-9]*.h5; do \
		if [ -e "$$file" ]; then scorer=$$file; break; fi; \
	done; \
	if [ "$$scorer" = units ] && [ "$$name" != units ]; then echo "$(probes_out): no scorer file for $$name" >&2; exit 1; fi; \
	for split in $(PROBES_TRAIN) $(PROBES_TEST); do \
		$(BIN)/encode-acts $(probes_acts)/$$split --scorer "$$scorer" --out $(probes_out)/latents/$*/$$split \
			$(call probes_keep,$*) --device $(DEVICE) >/dev/null || exit; \
	done
	$(BIN)/fit-probes --train $(probes_out)/latents/$*/$(PROBES_TRAIN) --test $(probes_out)/latents/$*/$(PROBES_TEST) --out $(@D) \
		--labels patch --tau $(PROBES_TAU) >/dev/null
	touch $@
