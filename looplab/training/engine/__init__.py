"""What a trainer runs on: models, optimizers, metrics, and the compiled functions of its steps."""
