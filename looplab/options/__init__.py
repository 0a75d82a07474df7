"""The settings of a user, with the checks that need no TensorFlow."""
