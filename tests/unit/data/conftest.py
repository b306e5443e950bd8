"""The two tiny tokenizers: like SmolLM2's (pad == eos, no BOS) and like Llama 3's (BOS in the template)."""

import pytest
import tiny_tokenizers


@pytest.fixture(scope="session")
def chatml():
    return tiny_tokenizers.build_chatml()


@pytest.fixture(scope="session")
def llama3():
    return tiny_tokenizers.build_llama3()
