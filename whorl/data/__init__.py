"""Raw files to what is trained on: documents → signals → filters → dedup → split → tokens → loader."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whorl.data.batch import Batch as Batch
    from whorl.data.batch import Sample as Sample
    from whorl.data.batch import collate as collate
    from whorl.data.batch import pack as pack
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
    from whorl.data.loader import MixedBatches as MixedBatches
    from whorl.data.loader import PretrainBatches as PretrainBatches
    from whorl.data.loader import SampleBatches as SampleBatches
    from whorl.data.loader import prefetch as prefetch
    from whorl.data.mixture import Mixture as Mixture
    from whorl.data.pipeline import Inputs as Inputs
    from whorl.data.pipeline import Report as Report
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
    from whorl.data.tokens import write_tokens as write_tokens
    from whorl.data.tokenset import TokenSet as TokenSet
    from whorl.data.tokenset import open_tokens as open_tokens

_WHERE = {
    "Annotate": "whorl.data.steps",
    "Batch": "whorl.data.batch",
    "DataConfig": "whorl.data.config",
    "Document": "whorl.data.document",
    "ExactDedup": "whorl.data.steps",
    "Filter": "whorl.data.steps",
    "Inputs": "whorl.data.pipeline",
    "Keep": "whorl.data.steps",
    "MinHashConfig": "whorl.data.config",
    "MixedBatches": "whorl.data.loader",
    "Mixture": "whorl.data.mixture",
    "NearDedup": "whorl.data.steps",
    "PretrainBatches": "whorl.data.loader",
    "ReadConfig": "whorl.data.config",
    "Reject": "whorl.data.document",
    "Report": "whorl.data.pipeline",
    "Sample": "whorl.data.batch",
    "SampleBatches": "whorl.data.loader",
    "Signal": "whorl.data.steps",
    "SignalValue": "whorl.data.document",
    "Span": "whorl.data.document",
    "Split": "whorl.data.steps",
    "SplitConfig": "whorl.data.config",
    "TokenSet": "whorl.data.tokenset",
    "collate": "whorl.data.batch",
    "document_id": "whorl.data.document",
    "open_manifest": "whorl.data.dataset",
    "open_tokens": "whorl.data.tokenset",
    "pack": "whorl.data.batch",
    "prefetch": "whorl.data.loader",
    "read": "whorl.data.readers",
    "read_dataset": "whorl.data.dataset",
    "read_rejects": "whorl.data.dataset",
    "run": "whorl.data.pipeline",
    "run_config": "whorl.data.pipeline",
    "steps_of": "whorl.data.steps",
    "verify_dataset": "whorl.data.dataset",
    "write_tokens": "whorl.data.tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
