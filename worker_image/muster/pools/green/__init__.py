"""Pools of greenlets: an unpatched parent with the worker's loop, and patched processes that run the tasks.

Empty, so that a process can be patched before it imports anything of weight.
"""
