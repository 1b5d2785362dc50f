# Part of the Makefile. Tokens of CamVid -> SAE -> latents -> probes -> a table on stdout, with baselines beside the SAE:
#   make camvid-probes CAMVID=/data/camvid PROBES_WEIGHTS=/data/vit_tiny_patch16_224.safetensors
# CAMVID holds images/SPLIT/*.jpg and annotations/SPLIT/*.png, whose value 11 is no class. docs/probes.md has the table.

CAMVID ?= data/camvid
PROBES_MODEL ?= timm/vit_tiny_patch16_224
PROBES_WEIGHTS ?=
PROBES_DUMP ?= --grid native:300 --ignore 11 --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5
PROBES_TRAIN ?= training
PROBES_TEST ?= test
PROBES_LAYER ?= 11
PROBES_SAE ?= --d-sae 1024 --k 16 --objective matryoshka --tokens 1M
PROBES_BASELINES ?= random:1024 kmeans:1024 pca:192

probes_out := out/camvid-probes/$(call digest,$(abspath $(CAMVID)) $(PROBES_MODEL) $(PROBES_WEIGHTS) $(PROBES_DUMP) $(PROBES_TRAIN) \
	$(PROBES_TEST) $(PROBES_LAYER) $(PROBES_SAE) $(PROBES_BASELINES) $(SEED))
probes_names := sae units $(foreach baseline,$(PROBES_BASELINES),$(firstword $(subst :, ,$(baseline))))
# What is kept: of scores of both signs all; latents of SAEs and of k-means are 0 where there is nothing.
probes_keep = $(if $(filter sae kmeans,$(1)),,--threshold=-inf)


.PHONY: camvid-probes
camvid-probes: $(probes_names:%=$(probes_out)/probes/%/.complete)
	@$(BIN)/collect-runs $(probes_names:%=$(probes_out)/probes/%/summary.csv) --by scorer,n_latents --sort=-map \
		--columns 'r,map,f1,purity@16,purity@16_all,coverage@0.3' --format markdown 2>/dev/null

$(probes_out)/acts/%/.complete: | .venv/.installed
	$(BIN)/dump-acts '$(CAMVID)' --split $* --out $(@D) --model '$(PROBES_MODEL)' --layers=$(PROBES_LAYER) \
		$(call option,--weights,$(PROBES_WEIGHTS)) $(PROBES_DUMP) --device $(DEVICE) >/dev/null
	touch $@

$(probes_out)/scorers/sae.h5: $(probes_out)/acts/$(PROBES_TRAIN)/.complete $(probes_out)/acts/$(PROBES_TEST)/.complete
	mkdir -p $(@D)
	$(BIN)/train-sae $(probes_out)/acts/$(PROBES_TRAIN) --val $(probes_out)/acts/$(PROBES_TEST) $(PROBES_SAE) --out $@ \
		--seed $(SEED) --device $(DEVICE) >/dev/null

$(probes_out)/scorers/.complete: $(probes_out)/acts/$(PROBES_TRAIN)/.complete $(probes_out)/acts/$(PROBES_TEST)/.complete
	$(BIN)/score-traits --train $(probes_out)/acts/$(PROBES_TRAIN) --test $(probes_out)/acts/$(PROBES_TEST) --patch-traits \
		$(PROBES_BASELINES:%=--scorer %) --save-scorer $(@D) --out $(@D)/ap.csv --seed $(SEED) --device $(DEVICE) >/dev/null
	touch $@

$(probes_out)/probes/%/.complete: $(probes_out)/scorers/sae.h5 $(probes_out)/scorers/.complete
	scorer=$*; for file in $(probes_out)/scorers/$*.h5 $(probes_out)/scorers/*-$*-*.h5; do \
		if [ -e "$$file" ]; then scorer=$$file; fi; \
	done; \
	for split in $(PROBES_TRAIN) $(PROBES_TEST); do \
		$(BIN)/encode-acts $(probes_out)/acts/$$split --scorer "$$scorer" --out $(probes_out)/latents/$*/$$split \
			$(call probes_keep,$*) --device $(DEVICE) >/dev/null; \
	done
	$(BIN)/fit-probes --train $(probes_out)/latents/$*/$(PROBES_TRAIN) --test $(probes_out)/latents/$*/$(PROBES_TEST) --out $(@D) \
		--labels patch >/dev/null
	touch $@

