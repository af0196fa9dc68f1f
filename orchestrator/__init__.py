"""Search, training and records around continual learning: from one YAML file to a champion."""
