"""What a call to an AI service costs, exactly, or why that cannot be said."""

from receipt_label.pricing.book import PriceBook
from receipt_label.pricing.listing import ModelEntry, PriceEntry, UnitRate
from receipt_label.pricing.outcome import Price, PriceSource, Unpriced, UnpricedReason
from receipt_label.pricing.price_file import PriceFileError

__all__ = [
    "ModelEntry",
    "Price",
    "PriceBook",
    "PriceEntry",
    "PriceFileError",
    "PriceSource",
    "UnitRate",
    "Unpriced",
    "UnpricedReason",
]
