"""How Weights & Biases, MLflow and Trackio know a run: a section of the recipe of its own."""

from __future__ import annotations

from whet.recipe.section import section


@section
class TrackedAs:
    """How Weights & Biases, MLflow and Trackio know the run; TensorBoard shows the run folder as it is."""

    project: str = "whet"
    """Project (MLflow: experiment) that the run belongs to."""
    name: str | None = None
    """Name of the run there; the recipe's `name` where nothing is set."""
    tags: tuple[str, ...] = ()
    """Tags before those that follow from the recipe: method, rank, alpha, start, learning rate, optimizer, batch, data,
    model."""
    online: bool = False
    """Let Weights & Biases send while the run trains (`WANDB_API_KEY`, or `wandb login`). Otherwise everything stays in
    the run folder, and `wandb sync` sends it later. `WANDB_MODE` in the environment goes before."""
