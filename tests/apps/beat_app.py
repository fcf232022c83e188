"""The ledger's application with a beat_schedule. EACH names the seconds of its interval."""

import os

from ledger_app import app

from muster import crontab

app.conf.timezone = "Europe/Berlin"
app.conf.beat_schedule = {
    "each": {"task": "ledger.work", "schedule": float(os.environ.get("EACH", "1"))},
    "nightly": {"task": "ledger.work", "schedule": crontab(minute=30, hour=3), "kwargs": {"seconds": 1}},
}
