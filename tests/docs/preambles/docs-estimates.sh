# a step that eight GPUs can share
sed 's/global_size: .*/global_size: 16/' recipes/smollm2-135m/lora.yaml > RECIPE
