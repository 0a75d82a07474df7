"""Checkpoints: each is a bundle of arrays by path and a manifest, complete and verifiable by itself."""

from looplab.checkpoint.bundle import read, read_manifest, verify
from looplab.checkpoint.saver import Saver
from looplab.checkpoint.store import Store
from looplab.options.checkpoint_policy import Policy

__all__ = ["Policy", "Saver", "Store", "read", "read_manifest", "verify"]
