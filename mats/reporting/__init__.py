"""What a merge or an evaluation tells its reader: report files, page, model card, tables and plots."""

from mats.reporting.layer_plot import plot_certificates, plot_layers
from mats.reporting.plots import as_png, as_svg
from mats.reporting.report import Report, RunInfo, validate_report
from mats.reporting.score_plot import plot_scores
from mats.reporting.score_tables import scores_markdown, scores_table
from mats.reporting.scores import Scores
from mats.reporting.tables import layers_table, losses_tables, rules_table, summary
from mats.reporting.writer import write_report

__all__ = [
    "Report",
    "RunInfo",
    "Scores",
    "as_png",
    "as_svg",
    "layers_table",
    "losses_tables",
    "plot_certificates",
    "plot_layers",
    "plot_scores",
    "rules_table",
    "scores_markdown",
    "scores_table",
    "summary",
    "validate_report",
    "write_report",
]
