"""What is true of an object, as conditions: one file for each kind, one function for each condition.

A message names the object and field that it is about, and what to do.
"""
