"""Transports: how messages are claimed, held, settled and published on each kind of broker.

One file per broker. They know the wire and nothing above it: no task, pool or result backend.
"""
