"""The report: one HTML file drawn from saved results; it computes nothing."""

from nofreelunch.report.page import in_words, write_report

__all__ = ["in_words", "write_report"]
