import pytest
import torch

from whet.errors import StorageError
from whet.models.adapter_file import LayerForm, choose_form

INPUTS, OUTPUTS = 5, 7


def _values(layers):
    generator = torch.Generator().manual_seed(0)
    values = {}
    for layer in layers:
        for names in (layer.factors, layer.start_factors):
            if names:
                values[names[0]] = torch.randn(layer.rank, INPUTS, generator=generator)
                values[names[1]] = torch.randn(OUTPUTS, layer.rank, generator=generator)
    return values


LAYERS = [
    LayerForm(name="one", rank=2, scale=0.5),
    LayerForm(name="two", rank=3, scale=2.0, start="start"),
    LayerForm(name="three", rank=4, scale=0.3),
]


def test_the_update_of_every_layer_is_alpha_over_r_times_the_files_product():
    form, values = choose_form(LAYERS), _values(LAYERS)
    assert (form.rank, form.alpha) == (6, 3.0)
    tensors = form.to_file(values)
    for layer in LAYERS:
        a, b = layer.factors
        expected = values[b] @ values[a]
        if layer.start_factors:
            start_a, start_b = layer.start_factors
            expected = expected + values[start_b] @ values[start_a]
        found = form.alpha / form.rank * tensors[b] @ tensors[a]
        torch.testing.assert_close(found, layer.scale * expected, rtol=1e-5, atol=1e-5)
    assert not any("start" in name for name in tensors)


def test_what_the_file_rounds_is_named_and_the_rest_comes_back_exactly():
    form, values = choose_form(LAYERS), _values(LAYERS)
    assert form.rounded == ["three.lora_B.weight"]
    back = form.from_file(form.to_file(values))
    assert set(back) == set(values)
    for name, value in values.items():
        assert torch.equal(back[name], value) or name in form.rounded
        torch.testing.assert_close(back[name], value)


def test_one_kind_of_layer_is_written_as_it_is():
    layers = [LayerForm(name=n, rank=49, scale=1 / 49) for n in ("one", "two")]
    form, values = choose_form(layers), _values(layers)
    assert form.alpha == 1.0 and form.rounded == []
    assert all(form.to_file(values)[name] is value for name, value in values.items())


@pytest.mark.parametrize("name", ["one.lora_A.weight", "two.lora_B.weight"])
def test_a_factor_of_another_rank_is_refused_by_name(name):
    form = choose_form(LAYERS)
    tensors = form.to_file(_values(LAYERS))
    with pytest.raises(StorageError, match=f"saved {name} has shape"):
        form.from_file(tensors | {name: torch.zeros(4, 4)})
