"""The private interfaces of others that looplab uses, and the patches of them, in one place.

`registry` lists every private name of Keras, TensorFlow and others that looplab reads, and everything that it
replaces in them (patches). `patches` is the only module that replaces something, and does so unless the
environment variable `LOOPLAB_PATCHES` is `off`: Keras and TensorFlow then run as they were released.
"""
