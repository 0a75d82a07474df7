"""What the commands share: arguments, start-up, exit codes, the jobs of a sweep.

Nothing here imports TensorFlow before a command asks for it.
"""
