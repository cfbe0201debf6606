"""The report of a bundle: one HTML file that a person can read and send on (docs/report.md)."""

from dmdkit.report.page import REPORT_PAGE, render, write_report

__all__ = ["REPORT_PAGE", "render", "write_report"]
