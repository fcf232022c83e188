"""`muster dev`: the manifests of a cluster, run on this computer.

The worker executable, its environment, every decision and the code that carries it out are the cluster's.
Only what stands at the edges is this package's: files in place of the API server, processes in place of pods,
a terminal in place of `kubectl`.
"""
