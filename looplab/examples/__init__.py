"""One readable file per research pattern; each uses looplab's public names only."""
