torchrun --nproc-per-node 2 -m whet train recipes/demo.yaml output=RUN > trained.log
