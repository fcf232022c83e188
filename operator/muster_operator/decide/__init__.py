"""The operator's decisions: pure functions from what was seen to what shall be done, each with its reason."""
