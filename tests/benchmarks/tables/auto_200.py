"""Recipe `auto` beside `simclr_small` in as much time, on 200 photographs of ten classes."""

from tests.benchmarks.tables.auto_4800 import table

TABLE = table("imagenette160", 200, 44)
