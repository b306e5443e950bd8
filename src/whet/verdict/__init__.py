"""What a comparison means: the rule of the verdict, the line over all sets, Comparison <-> JSON. No torch."""

from whet.verdict.document import from_document, to_document
from whet.verdict.rule import ALPHA, Overall, decide, overall

__all__ = ["ALPHA", "Overall", "decide", "from_document", "overall", "to_document"]
