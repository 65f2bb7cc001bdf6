"""What a page of metrics says."""


def numbers_of(text: str) -> dict[str, float]:
    """Return the values by name with labels, as Prometheus reads them: a large number has an exponent."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
