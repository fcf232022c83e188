"""The command line, one file per command group; others join by the entry point `muster.commands`."""
