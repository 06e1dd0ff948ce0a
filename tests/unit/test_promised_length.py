"""What a view gives for a Content-Length."""

import pytest
from plain.http import Response
from plain.server.http.errors import InvalidHeader

from plain_gevent_h2.stream import promised_length

#: What a view may take for a length, and no client does.
JUNK = ("-1", "+5", "5, 5", "5, 6", "0x5", "1e1", "", " ", "5 5", "1_0", "\xb2", "ten", "9" * 30)


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_no_length(junk: str) -> None:
    with pytest.raises(InvalidHeader):
        promised_length(Response("body", headers={"Content-Length": junk}))
