# the recipe, under every name that the page gives it
cp recipes/smollm2-135m/lora.yaml R
cp R recipes/r.yaml
export HF_TOKEN=none
