"""Exports: a trained run as something that is served without us, with a certificate.

Neither TorchRec, FBGEMM nor Lightning.
"""

from recmtl.exporting.export import ExportResult, export_run
from recmtl.exporting.scorer import ExportedScorer
from recmtl.exporting.verify import verify_export

__all__ = ["ExportResult", "ExportedScorer", "export_run", "verify_export"]
