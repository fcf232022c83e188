"""Remote control: what can be asked of running workers."""
