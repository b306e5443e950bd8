cp recipes/smollm2-135m/lora.yaml RECIPE
