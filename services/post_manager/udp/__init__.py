"""The store over UDP: checks and tokens, and the process that answers them."""
