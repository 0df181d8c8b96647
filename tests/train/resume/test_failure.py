"""The file of a failed step: what is in it is used only if it is what was written."""

import json
from pathlib import Path

import pytest

from invariance_propagation.errors import UserError
from invariance_propagation.train.resume import failure

FACTS = {"step": 3, "good_step": 1, "values": {"loss": "nan"}, "rows": [4, 2]}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    (tmp_path / failure.FILE).write_text(json.dumps(FACTS))
    assert failure.read(tmp_path) == FACTS
    assert failure.find(tmp_path) == tmp_path


@pytest.mark.parametrize("missing", FACTS)
def test_facts_that_lack_something_are_one_line(tmp_path: Path, missing: str) -> None:
    facts = {name: x for name, x in FACTS.items() if name != missing}
    (tmp_path / failure.FILE).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="cannot be read .*run the training again"):
        failure.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_a_file_of_something_else_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / failure.FILE).write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        failure.read(tmp_path)


def test_without_a_failed_step_there_is_nothing_to_replay(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to replay"):
        failure.find(tmp_path)
