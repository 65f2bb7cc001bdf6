"""Numbers of things in sentences for people."""


def counted(number: int, thing: str) -> str:
    """Return ``1 post`` or ``2 posts`` for a thing whose plural takes an s."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
