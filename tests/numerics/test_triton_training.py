import pytest
import triton_interpreter


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1900)
def test_fifty_steps_with_the_triton_kernels_have_the_losses_of_torch():
    triton_interpreter.run("tests/interpreted/test_fifty_steps.py", num_expected=2, timeout_seconds=1800)
