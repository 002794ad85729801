"""One budget for everything: damage curves, exact accounting, and the plan that the prune stages carry out."""
