"""Bytes and values: Celery's wire format and Muster's own documents. No I/O, no clock, no decisions.

Everything above reads and writes the broker through these modules, the operator included, so that
each key, header and document has one spelling.
"""
