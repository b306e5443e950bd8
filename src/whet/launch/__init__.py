"""Starting one run on one or many machines: torchrun here, schedulers and containers elsewhere; never torch itself."""
