"""Recipe `auto` beside `simclr_small` in as much time, on 954 photographs of flowers."""

from tests.benchmarks.tables.auto_4800 import table

TABLE = table("flowers17", 954, 40)
