"""What a user may set, with the checks that need no TensorFlow."""
