"""A local web page over a folder of runs: a server for this machine alone, and the page that it gives out."""

from whet.report.ui.server import Server

__all__ = ["Server"]
