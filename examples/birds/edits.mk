# Part of the Makefile. An edit of a latent against the same bird drawn again -> tables on stdout, rows in out/cub200/edits-birds-*.csv:
#   make birds-edits
# The SAEs lie before the layer of the head, so that blocks of the network run between an edit and the logits. EDITS_LAYER=7 takes those
# of cub200-table, with nothing but the mean and the head behind them. docs/edits.md has the tables.

EDITS_LAYER ?= 5
EDITS_HEAD_LAYER ?= 7
EDITS_HEAD ?= --l2 0.1,0.01 --folds 3
EDITS ?= --draws 3

edits_layers := $(subst $(space),$(comma),$(sort $(EDITS_LAYER) $(EDITS_HEAD_LAYER)))
edits_heads := $(OUT)/heads-$(call digest,$(acts) $(EDITS_HEAD))
edits_out := $(OUT)/edits-birds-$(call digest,$(table_id) $(EDITS_LAYER) $(edits_heads) $(EDITS_HEAD_LAYER) $(EDITS)).csv

.PHONY: birds-edits birds-edits-table
birds-edits:
	@$(MAKE) birds-edits-table LAYERS='$(edits_layers)' SCORERS= N_TRAIN=all

birds-edits-table: $(edits_out)
	@cat $(edits_out:.csv=.md)

data/birds-pairs/pairs.csv: data/birds/images.txt $(wildcard examples/birds/*.py) | .venv/.installed
	$(BIN)/python examples/birds/make_pairs.py $(@D) --birds data/birds

$(edits_heads)/layer%.h5: $(acts)/train/.complete $(acts)/test/.complete
	mkdir -p $(@D)
	$(BIN)/fit-heads --train $(acts)/train --test $(acts)/test --labels data/birds --tokens mean --layer $* $(EDITS_HEAD) --out $@ >/dev/null

$(edits_out): data/birds-pairs/pairs.csv $(edits_heads)/layer$(EDITS_LAYER).h5 $(edits_heads)/layer$(EDITS_HEAD_LAYER).h5 $(call table_of,$(EDITS_LAYER))
	$(BIN)/python examples/birds/compare_edits.py $(<D) --train $(acts)/train --traits data/birds --table $(call table_of,$(EDITS_LAYER)) \
		--sae '$(OUT)/sae-$(sae_id)-layer$(EDITS_LAYER)/$(each_seed)' --seeds $(seeds) --head $(edits_heads)/layer$(EDITS_HEAD_LAYER).h5 \
		--probe $(edits_heads)/layer$(EDITS_LAYER).h5 --model '$(MODEL)' $(call option,--weights,$(WEIGHTS)) $(EDITS) --out $@ >$(@:.csv=.md)
