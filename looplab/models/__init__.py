"""Reference models: subclassed Keras models to train, to read and to copy."""

from looplab.models.convnet import ConvNet

__all__ = ["ConvNet"]
