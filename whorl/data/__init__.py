"""Raw files to what is trained on: documents → signals → filters → dedup → split → tokens → loader."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.data.config import DataConfig as DataConfig
    from whorl.data.config import MinHashConfig as MinHashConfig
    from whorl.data.config import ReadConfig as ReadConfig
    from whorl.data.config import SplitConfig as SplitConfig
    from whorl.data.dataset import open_manifest as open_manifest
    from whorl.data.dataset import read_dataset as read_dataset
    from whorl.data.dataset import read_rejects as read_rejects
    from whorl.data.dataset import verify_dataset as verify_dataset
    from whorl.data.document import Document as Document
    from whorl.data.document import Reject as Reject
    from whorl.data.document import SignalValue as SignalValue
    from whorl.data.document import Span as Span
    from whorl.data.document import document_id as document_id
    from whorl.data.pipeline import Report as Report
    from whorl.data.pipeline import Source as Source
    from whorl.data.pipeline import run as run
    from whorl.data.pipeline import run_config as run_config
    from whorl.data.readers import read as read
    from whorl.data.steps import Annotate as Annotate
    from whorl.data.steps import ExactDedup as ExactDedup
    from whorl.data.steps import Filter as Filter
    from whorl.data.steps import Keep as Keep
    from whorl.data.steps import NearDedup as NearDedup
    from whorl.data.steps import Signal as Signal
    from whorl.data.steps import Split as Split
    from whorl.data.steps import steps_of as steps_of

_WHERE = {
    "Annotate": "whorl.data.steps",
    "DataConfig": "whorl.data.config",
    "Document": "whorl.data.document",
    "ExactDedup": "whorl.data.steps",
    "Filter": "whorl.data.steps",
    "Keep": "whorl.data.steps",
    "MinHashConfig": "whorl.data.config",
    "NearDedup": "whorl.data.steps",
    "ReadConfig": "whorl.data.config",
    "Reject": "whorl.data.document",
    "Report": "whorl.data.pipeline",
    "Signal": "whorl.data.steps",
    "SignalValue": "whorl.data.document",
    "Source": "whorl.data.pipeline",
    "Span": "whorl.data.document",
    "Split": "whorl.data.steps",
    "SplitConfig": "whorl.data.config",
    "document_id": "whorl.data.document",
    "open_manifest": "whorl.data.dataset",
    "read": "whorl.data.readers",
    "read_dataset": "whorl.data.dataset",
    "read_rejects": "whorl.data.dataset",
    "run": "whorl.data.pipeline",
    "run_config": "whorl.data.pipeline",
    "steps_of": "whorl.data.steps",
    "verify_dataset": "whorl.data.dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
