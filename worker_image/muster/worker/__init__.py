"""The worker: the loop between one broker and one pool, and what people and Kubernetes ask of it."""
