"""A small shop: a web service takes orders, workers confirm them."""
