"""The common parts of the commands: arguments, start-up, exit codes, the jobs of a sweep.

Nothing here imports TensorFlow before a command needs it.
"""
