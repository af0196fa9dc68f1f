"""LoRA and its variants that PEFT builds from one config."""
