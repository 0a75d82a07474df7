"""One fit: plan, restore, loop, evaluate, save, end. The Trainer delegates to this wing."""
