"""What a merge or an evaluation tells its reader: report files, page, model card, tables and plots."""

from mats.reporting.report import Report, RunInfo, validate_report
from mats.reporting.writer import write_report

__all__ = ["Report", "RunInfo", "validate_report", "write_report"]
