"""How fast Farol is, and how much memory it takes, beside what one would write by hand. Scripts, not tests."""

from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BENCH = TOP / ".bench"
ROWS = 10_000_000
# Between the defaults of DuckDB (122,880) and pyarrow (1,048,576), and no one's own: three groups in a file of 1.25 M
# rows, so that a reader can take them side by side, and the last one is a rest, as in life.
ROW_GROUP = 500_000
DIMENSIONS = 384  # of the vectors
