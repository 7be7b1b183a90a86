"""The report: one HTML file drawn from saved results; it computes nothing."""

from nofreelunch.report.page import report_lines, write_report

__all__ = ["report_lines", "write_report"]
