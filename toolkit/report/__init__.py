"""The report of a bundle: one HTML file that a person can read and send on (docs/report.md)."""

from dmdkit.report.page import REPORT_PAGE, render, write_report
from dmdkit.report.run_page import write_run_report

__all__ = ["REPORT_PAGE", "render", "write_report", "write_run_report"]
