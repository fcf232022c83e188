"""The loop: what has changed becomes a key, a key a snapshot, a snapshot a plan, a plan deeds.

Nothing is remembered between passes but what only delays when it is forgotten. kopf watches; see `watch`.
"""
