"""Learning without gradient steps: operators recovered from pairs of inputs and outputs."""
