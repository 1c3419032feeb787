"""What a call to an AI service costs, exactly, or why that cannot be said."""

from receipt_label.pricing.book import PriceBook
from receipt_label.pricing.outcome import Price, Unpriced
from receipt_label.pricing.price_file import PriceFileError

__all__ = ["Price", "PriceBook", "PriceFileError", "Unpriced"]
