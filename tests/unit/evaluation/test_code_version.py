import shutil
from pathlib import Path

import pytest

import whet
from whet.evaluation import code_version

PACKAGE = Path(whet.__file__).parent
VERSIONS = {"torch": "1", "transformers": "2"}


def test_the_version_is_the_one_of_these_files_and_libraries():
    assert len(code_version.code_version()) == 16
    assert code_version._hash_code(PACKAGE, VERSIONS) != code_version._hash_code(PACKAGE, VERSIONS | {"torch": "3"})


@pytest.mark.parametrize(
    ("name", "matters"),
    [
        ("inference/engine.py", True),
        ("inference/sampling.py", True),
        ("data/templates/encode.py", True),
        ("data/templates/llama-3.jinja", True),
        ("data/datasets/math_answer.py", True),
        ("kernels/attention.py", True),
        ("models/merge.py", True),
        ("cli/evaluate.py", False),
        ("train/loop.py", False),
    ],
)
def test_code_that_writes_or_judges_answers_is_in_the_version(tmp_path, name, matters):
    copy = shutil.copytree(PACKAGE, tmp_path / "whet", ignore=shutil.ignore_patterns("__pycache__"))
    before = code_version._hash_code(copy, VERSIONS)
    assert before == code_version._hash_code(PACKAGE, VERSIONS)
    (copy / name).write_text((copy / name).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert (code_version._hash_code(copy, VERSIONS) != before) == matters


def test_every_pattern_finds_files():
    assert all(list(PACKAGE.glob(pattern)) for pattern in code_version._WRITES_AND_JUDGES)
