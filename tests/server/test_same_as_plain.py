"""HTTP/1.1 as Plain's own server speaks it, which runs beside ours and tells the right answer."""

from collections.abc import Callable, Iterator

import pytest
from harness import Server
from http1client import Answer, Client
from protocol.test_http1 import BAD_REQUESTS, GOOD_REQUESTS, HEALTH_CHECKS, method_of


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Plain's own worker, for comparison."""
    with Server(None, tmp=tmp_path_factory.mktemp("plain"), worker=None) as running:
        yield running


def answer_of(server: Server, sent: bytes) -> Answer:
    with Client(server.connect("http/1.1")) as client:
        client.send(sent)
        return client.read(method_of(sent))


@pytest.fixture
def client(either: Server) -> Iterator[Client]:
    with Client(either.connect("http/1.1")) as connected:
        yield connected


class TestSameAsPlain:
    @pytest.mark.parametrize("name", BAD_REQUESTS)
    def test_bad_requests(self, client: Client, plain: Server, name: str) -> None:
        sent = BAD_REQUESTS[name]
        client.send(sent)
        assert client.read(method_of(sent)).raw == answer_of(plain, sent).raw
        assert client.closed()

    @pytest.mark.parametrize("name", GOOD_REQUESTS)
    def test_good_requests(self, plaintext: Server, plain: Server, name: str) -> None:
        ours, theirs = (self._comparable(s, GOOD_REQUESTS[name]) for s in (plaintext, plain))
        assert ours == theirs

    @staticmethod
    def _comparable(server: Server, sent: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
        """The answer without what differs from second to second, or from server to server."""
        answer = answer_of(server, sent)
        headers = sorted((key, value) for key, value in answer.headers if key != "date")
        assert len(headers) < len(answer.headers)
        return answer.status_line, headers, answer.body.replace(b"%d" % server.port, b"PORT")

    @pytest.mark.parametrize("path", ["/failing-body?after=0", "/statuses?kind=bad-header"])
    def test_before_the_first_byte_it_is_plains_500(
        self, client: Client, plain: Server, path: str
    ) -> None:
        """Plain calls a response's bad header a bad request (400); a 500 is what it is."""
        answer = client.get(path)
        with Client(plain.connect()) as other:
            assert answer.raw == other.get("/failing-body?after=0").raw
        assert answer.status == 500
        assert client.closed()

    def test_health_checks(self, serve: Callable[..., Server]) -> None:
        environment = {"PLAIN_HEALTHCHECK_PATH": "/up"}
        ours = serve(plaintext=True, env=environment)
        plain = serve(plaintext=True, env=environment, worker=None)
        for sent in HEALTH_CHECKS:
            assert answer_of(ours, sent).raw == answer_of(plain, sent).raw
