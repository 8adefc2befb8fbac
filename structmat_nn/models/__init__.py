"""Neural solvers, and the models that they are compared with."""
