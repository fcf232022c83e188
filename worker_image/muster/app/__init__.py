"""The application: what users import. Celery's names and meanings on Muster's engine."""
