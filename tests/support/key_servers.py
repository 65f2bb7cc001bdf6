"""Key servers for tests, where the HTTP client would be: each answers what a test says, and remembers the questions."""

from io import BytesIO


class Answer:
    """An HTTP answer."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = BytesIO(body)

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()

    def read(self, most: int) -> bytes:
        return self._body.read(most)


class KeyServers:
    """Stands for the HTTP client: ``answers`` by host, the same to all questions, by address or by a function."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    def get(self, host: str, port: int, path: str) -> Answer:
        self.asked.append((host, path.rpartition("search=")[2]))
        answer = self.answers.get(host.partition(".")[0], 404)
        if isinstance(answer, dict):
            answer = answer.get(path.rpartition("search=")[2], 404)
        elif callable(answer):
            answer = answer(path.rpartition("search=")[2])
        if isinstance(answer, Exception):
            raise answer
        return Answer(200, answer) if isinstance(answer, bytes) else Answer(int(str(answer)), b"")
