"""Adapters: the API server and brokers as they are. They know no decision; decisions know no adapter."""
