"""What a champion's page answers to a name that nobody was champion of."""

from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from orchestrator.web.guard import Changes
from orchestrator.web.reading import Reading
from orchestrator.web.server import serving
from orchestrator.web.site import Site
from tests.synthetic_sweeps import write_sweep


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    storage = tmp_path_factory.mktemp("champions")
    write_sweep(storage, "six", 6)
    write_sweep(storage, "open", 3, ended=False)
    with serving(Site(Reading(storage), Changes(allowed=False)), 0) as address:

        def asked(path):
            connection = HTTPConnection(urlsplit(address).netloc, timeout=30)
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            return answer.status, text

        yield asked


def test_a_wrong_name_is_not_found_and_the_nearest_is_named(ask):
    status, text = ask("/champions/sixx")
    assert status == 404
    assert "Did you mean &#39;six&#39;? There: six." in text


def test_a_champion_has_a_page_and_so_has_a_sweep_without_one(ask):
    assert ask("/champions/six")[0] == 200
    status, text = ask("/champions/open")
    assert status == 200
    assert "was ever champion" in text
    assert "/champions/six" in ask("/champions")[1]
    assert "/champions/open" not in ask("/champions")[1]
