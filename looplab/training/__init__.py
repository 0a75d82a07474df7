"""One fit: plan, restore, loop, evaluate, save, end. The Trainer delegates here."""
