"""Beat: publishes each due tick of each schedule once."""
