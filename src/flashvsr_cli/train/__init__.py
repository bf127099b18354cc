"""Training: the stages of FlashVSR's distillation, at full size and at the size of the packaged model."""
