"""One module for each version of the tables; see the package above."""
