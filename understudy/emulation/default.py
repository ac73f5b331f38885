"""compose/compose.yaml, for those who start with `docker compose up`.

`python -m understudy.emulation.default` writes it.
"""

from __future__ import annotations

from pathlib import Path

from stages.graph import ModelGraph
from understudy.data import digits_bundle
from understudy.emulation.links import make_cluster, with_machines
from understudy.emulation.project import Layout, compose_document, to_yaml

NODES = 5
FILE = Path(__file__).parents[2] / "compose" / "compose.yaml"

HEADER = """\
# Five nodes, each with a broker of its own, on links of 100 Mbit/s, serving the digits network:
#
#   docker compose -f compose/compose.yaml up --build
#   understudy publish digits seven.png --broker nats://127.0.0.1:4222
#   docker compose -f compose/compose.yaml down --volumes
#
# `python -m understudy.emulation.default` has written this file. `understudy emulate` writes others, for other
# clusters, and runs, breaks, measures and removes them; docs/emulation.md says how.
"""


def default_compose() -> str:
    """compose/compose.yaml: the cluster that `setup` makes, too."""
    bundle = digits_bundle()
    chain = ModelGraph.load(bundle.model_path, shapes=bundle.manifest.shapes).chain()
    plain = make_cluster(nodes=NODES, topology="mesh", bandwidth="100mbit")
    cluster = with_machines(plain, chain, memory_bytes=None, flops_per_s=None, lost=0)
    layout = Layout(pipeline=bundle.manifest.name, cluster=cluster, cpus=dict.fromkeys(cluster.names, 1.0))
    return HEADER + to_yaml(compose_document(layout, build=".."))


if __name__ == "__main__":
    FILE.write_text(default_compose())
