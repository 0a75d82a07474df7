"""One run as a folder and as a process: files and lock, signals, watchdog, crash report, wall time.

Nothing here imports TensorFlow.
"""
