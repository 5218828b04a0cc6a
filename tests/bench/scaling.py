"""How much of several GPUs a training would use, from the size of its gradients and the network between them: nothing is
measured.

    python tests/bench/scaling.py [--json common/results/bench/scaling.json]

Every GPU takes the batch that the recipe has on one. A step computes for 6 x multiply-adds x batch / (rate x share), as
common/recipes.yaml says for an H200; then 4 bytes a weight go round a ring of n GPUs, 2 (n - 1) / n times past its slowest
link. Share used = computing / (computing + sending): at least that, as backward passes send while they compute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from common import reproduce
from common.crosscheck import figures_table
from common.files import write_json

LINKS = {  # where -> GPUs, 10^9 bytes a second of the slowest link, one way
    "8 in one machine, NVLink 450 GB/s": (8, 450),
    "2x8, 400 Gbit/s a GPU": (16, 400),
    "2x8, 100 Gbit/s a machine": (16, 12.5),
}


def table() -> dict:
    """A row a network."""
    content, rows = reproduce._content(), {}
    rate = content["machines"]["H200"]["tflops"] * 1e12 * content["share_of_peak"]
    for recipe in reproduce.recipes().values():
        name, batch = recipe.fields["network"], recipe.fields["batch"]
        network = content["networks"][name]
        computing, sent = 6e9 * network["gmac"] * batch / rate, 4e6 * network["parameters"]
        shares = [computing / (computing + 2 * (n - 1) / n * sent / (1e9 * speed)) for n, speed in LINKS.values()]
        rows[name] = [name, batch, round(sent / 1e6), round(1000 * computing, 1), *(f"{share:.0%}" for share in shares)]
    columns = ["network", "batch a GPU", "gradients, MB", "computing, ms a step", *LINKS]
    return {"columns": columns, "rows": [*rows.values()], "command": "python tests/bench/scaling.py",
            "note": "computed, not measured: H200 at a quarter of its TF32 rate, nothing sent while computing"}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Print the table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here, for a README")
    args = parser.parse_args(argv)
    result = table()
    print(figures_table(result))
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
