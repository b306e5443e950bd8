"""Run folder -> one self-contained HTML file that anyone can open, without torch and without a network."""

from whet.report.html import write_report

__all__ = ["write_report"]
