"""What the pages answer to names that a storage folder does not hold."""

import pytest

from orchestrator.web.reading import NotFoundError, Reading
from tests.synthetic_sweeps import write_sweep


@pytest.mark.parametrize("name", ["thousnd", "Thousand"])
def test_a_wrong_sweep_is_answered_with_the_nearest_as_in_the_terminal(tmp_path, name):
    write_sweep(tmp_path, "thousand", 0)
    write_sweep(tmp_path, "six", 0)
    reading = Reading(tmp_path)
    with pytest.raises(NotFoundError, match=rf"No sweep '{name}' .* Did you mean 'thousand'\?"):
        reading.folder(name)
    with pytest.raises(NotFoundError, match=r"Sweeps there: .*six"):
        reading.folder("../six")
    reading.close()
