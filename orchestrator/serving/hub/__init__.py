"""An exported folder as the Hugging Face hub expects it: its card, and sending it there."""
