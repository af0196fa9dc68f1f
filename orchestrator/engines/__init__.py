"""Training engines around a base model: plain, DeepSpeed, and what they are built of."""
