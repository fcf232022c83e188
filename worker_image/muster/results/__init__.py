"""Result stores: where the outcomes of tasks are kept, one file per kind. They know no transport, no pool."""
