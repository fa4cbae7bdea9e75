"""Plain data: no torch, no optuna, nothing that runs a network."""
