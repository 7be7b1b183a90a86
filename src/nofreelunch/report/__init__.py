"""The report: one HTML file drawn from saved results; it computes nothing."""

from nofreelunch.report.page import write_report

__all__ = ["write_report"]
