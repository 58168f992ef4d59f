"""Step 1, the target: how much attention does a key deserve? One file a family; a new score is one class in one."""

from __future__ import annotations

from attention_core.scores import expression, rarity, salience, selective, similarity, time

FAMILIES = (selective, salience, rarity, time, similarity, expression)
