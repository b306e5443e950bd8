# a finished run whose recipe was then made longer
cp recipes/smollm2-135m/lora.yaml R
command whet train R > trained.log
sed -i 's/max_steps: 2/max_steps: 3/' R
