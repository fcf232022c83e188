"""Muster: a task engine that speaks Celery's wire format, made to be run by Kubernetes."""
