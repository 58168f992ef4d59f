"""Step 2: what a score becomes. One file a family; a new weight is one class in one of them."""

from __future__ import annotations

from attention_core.weights import gates, plain, robust, simplex

FAMILIES = (plain, gates, robust, simplex)
