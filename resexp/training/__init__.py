"""Training one run: the trainer that can be advanced, and the loop around it."""
