"""The continual learning loop: requests, answers, scores, and the state of a trial."""
