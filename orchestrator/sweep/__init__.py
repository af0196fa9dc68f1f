"""A sweep: from an experiment to trials, a front and a champion."""
