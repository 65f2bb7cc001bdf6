"""The DNS side of stub mail: the three records' format, questions to a resolver, and a cache of their answers."""
