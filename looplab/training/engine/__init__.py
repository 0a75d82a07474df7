"""The engine of a trainer: models, optimizers, metrics, and the compiled functions of its steps."""
