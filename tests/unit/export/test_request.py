from pathlib import Path

import pytest

from whet.export import EXPORTS, Request


def test_an_export_goes_beside_its_run_under_the_format_s_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Request(run_folder=Path("runs/demo/")).target("hf") == tmp_path / "runs" / "demo-hf"
    assert Request(run_folder=Path()).target("adapter") == tmp_path.with_name(f"{tmp_path.name}-adapter")
    assert Request(run_folder=Path("runs/demo"), output=Path("there")).target("hf") == Path("there")


@pytest.mark.parametrize("name", ["adapter", "hf", "vllm"])
def test_every_format_is_a_function_of_a_request(name):
    assert callable(EXPORTS[name])
