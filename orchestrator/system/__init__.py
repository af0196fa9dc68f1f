"""Files, locks, JSON and the machine: nothing here knows of learning."""
