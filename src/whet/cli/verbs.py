"""Table of verbs: name -> (module, function, one-line help). The module is imported only when the verb runs."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Attach every verb to `app`."""
    from whet.cli import (
        chat,
        compare,
        diff,
        doctor,
        estimate,
        evaluate,
        explain,
        export,
        generate,
        init,
        inspect,
        launch,
        merge,
        prepare,
        push,
        recipe,
        report,
        reproduce,
        runs,
        serve,
        train,
        ui,
        verbosity,
        watch,
    )
    from whet.train.signals import interruptible

    app.callback()(verbosity.options)
    app.command()(init.init)
    app.add_typer(recipe.app, name="recipe")
    app.command()(explain.explain)
    app.add_typer(launch.app, name="launch")
    app.command()(interruptible()(prepare.prepare))
    app.command()(inspect.inspect)
    app.command()(interruptible()(estimate.estimate))
    app.command()(interruptible()(train.train))
    app.command()(interruptible()(evaluate.evaluate))
    app.command()(compare.compare)
    app.command()(report.report)
    app.add_typer(runs.app, name="runs")
    app.command()(watch.watch)
    app.command()(ui.ui)
    app.command()(diff.diff)
    app.command()(reproduce.reproduce)
    app.command()(interruptible()(merge.merge))
    app.command()(interruptible()(export.export))
    app.command()(generate.generate)
    app.command()(chat.chat)
    app.command()(serve.serve)
    app.command()(push.push)
    app.command()(doctor.doctor)
