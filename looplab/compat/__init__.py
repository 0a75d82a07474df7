"""The private interfaces of other packages that looplab uses, and looplab's patches of them, in one place.

`registry` lists every private name of Keras, TensorFlow and others that looplab reads, and everything that it
replaces in them (patches). Only `patches` replaces something. It does so unless the environment variable
`LOOPLAB_PATCHES` is `off`; then Keras and TensorFlow run as they were released.
"""
