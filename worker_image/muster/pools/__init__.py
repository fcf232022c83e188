"""Pools: how tasks are run on this machine, one file per pool type. They know no broker, no result store."""
