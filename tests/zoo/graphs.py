"""Graph networks of PyTorch Geometric, small: how each is called, and its laws by its source.

A table has a weight, the law in front of it and its fan-in per line. Weights that are missing in
it are assumed, or stand where others of the table do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NODES, EDGES, ATOMS = 20, 60, 12


class Graph(NamedTuple):
    """How a graph network is made, what it is called with beside nodes and edges, and its laws."""

    make: Callable[[], nn.Module]
    table: str
    further: Callable[[], tuple[Tensor, ...]] = tuple
    atoms: bool = False

    def build(self) -> nn.Module:
        """Make the model with random weights."""
        torch.manual_seed(0)
        return self.make()

    def example(self) -> tuple[Tensor, ...]:
        """Make the arguments of its forward: a graph, or atoms with their places."""
        torch.manual_seed(0)
        if self.atoms:
            numbers, one = torch.randint(1, 9, (ATOMS,)), torch.zeros(ATOMS, dtype=torch.long)
            return numbers, torch.randn(ATOMS, 3), one
        edges = torch.randint(0, NODES, (2, EDGES))
        return (torch.randn(NODES, 8), edges, *self.further())

    def laws(self) -> dict[str, tuple[str, int]]:
        """The table: law and fan-in by weight."""
        lines = (line.split() for line in self.table.strip().splitlines())
        return {name: (law, int(fan_in)) for name, law, fan_in in lines}


def basic(name: str, **options: Any) -> Callable[[], nn.Module]:
    """One of the package's own stacks of three convolutions with ReLU in between."""

    def make() -> nn.Module:
        import torch_geometric.nn as geometric

        model: nn.Module = getattr(geometric, name)(8, 16, 3, out_channels=4, **options)
        return model

    return make


def stack(name: str, *sizes: tuple[Any, ...], **options: Any) -> Callable[[], nn.Module]:
    """Convolutions of one kind with ReLU in between."""

    def make() -> nn.Module:
        import torch_geometric.nn as geometric

        return Stack([getattr(geometric, name)(*size, **options) for size in sizes])

    return make


class Stack(nn.Module):
    def __init__(self, convs: list[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)

    def forward(self, x: Tensor, edges: Tensor, *further: Tensor) -> Tensor:
        x = self.convs[0](x, edges, *further)
        for conv in self.convs[1:]:
            x = conv(x.relu(), edges, *further)
        return x


class Predict(nn.Module):
    """Predict, then propagate (APPNP)."""

    def __init__(self) -> None:
        import torch_geometric.nn as geometric

        super().__init__()
        self.lin1, self.lin2 = nn.Linear(8, 16), nn.Linear(16, 4)
        self.propagate = geometric.APPNP(10, 0.1)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        out: Tensor = self.propagate(self.lin2(self.lin1(x).relu()), edges)
        return out


class Deep(nn.Module):
    """Residual graph convolutions (DeepGCN) with learned softmax aggregation."""

    def __init__(self) -> None:
        import torch_geometric.nn as geometric

        super().__init__()
        self.encoder, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        convs = [geometric.GENConv(16, 16) for _ in range(3)]
        self.layers = nn.ModuleList(
            [geometric.DeepGCNLayer(one, nn.LayerNorm(16), nn.ReLU()) for one in convs]
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(x, edges)
        out: Tensor = self.head(self.layers[0].norm(x).relu())
        return out


class Transformer(nn.Module):
    """Local and global layers side by side (GPS)."""

    def __init__(self) -> None:
        import torch_geometric.nn as geometric

        super().__init__()
        self.encoder, self.head = nn.Linear(8, 16), nn.Linear(16, 4)
        inner = [nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(2)]
        self.convs = nn.ModuleList(
            [geometric.GPSConv(16, geometric.GINConv(one), heads=4) for one in inner]
        )
        self.pool = geometric.global_add_pool

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.encoder(x)
        for conv in self.convs:
            x = conv(x, edges)
        return self.head(self.pool(x, torch.zeros(len(x), dtype=torch.long)))


class Messages(nn.Module):
    """The message passing network of Gilmer et al. 2017, as in the package's example."""

    def __init__(self) -> None:
        import torch_geometric.nn as geometric

        super().__init__()
        of_edges = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 256))
        self.lin0 = nn.Linear(8, 16)
        self.conv = geometric.NNConv(16, 16, of_edges, aggr="mean")
        self.gru = nn.GRU(16, 16)
        self.readout = geometric.Set2Set(16, processing_steps=3)
        self.lin1, self.lin2 = nn.Linear(32, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor, edges: Tensor, features: Tensor) -> Tensor:
        out = self.lin0(x).relu()
        state = out[None]
        for _ in range(3):
            message = self.conv(out, edges, features).relu()
            out, state = self.gru(message[None], state)
            out = out[0]
        out = self.readout(out, torch.zeros(len(x), dtype=torch.long))
        result: Tensor = self.lin2(self.lin1(out).relu())
        return result


def schnet() -> nn.Module:
    import torch_geometric.nn as geometric

    def near(places: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        distances = torch.cdist(places, places)
        pairs = ((distances < 3.0) & (distances > 0.0)).nonzero().T
        return pairs, (places[pairs[0]] - places[pairs[1]]).norm(dim=-1)

    model: nn.Module = geometric.SchNet(16, 16, 2, 10, interaction_graph=near)
    return model


PNA = {"aggregators": ["mean", "max"], "scalers": ["identity"], "deg": torch.ones(5)}

GRAPHS: dict[str, Graph] = {
    "GCN": Graph(
        basic("GCN"),
        """
convs.0.lin linear 8
convs.1.lin relu 16
convs.2.lin relu 16
""",
    ),
    "GraphSAGE": Graph(
        basic("GraphSAGE"),
        """
convs.0.lin_l linear 8
convs.0.lin_r linear 8
convs.1.lin_l relu 16
convs.1.lin_r relu 16
convs.2.lin_l relu 16
convs.2.lin_r relu 16
""",
    ),
    "GIN": Graph(
        basic("GIN"),
        """
convs.0.nn.lins.0 linear 8
convs.0.nn.lins.1 relu 16
convs.1.nn.lins.0 linear 16
convs.1.nn.lins.1 relu 16
convs.2.nn.lins.0 linear 16
convs.2.nn.lins.1 relu 4
""",
    ),
    "GAT": Graph(
        basic("GAT"),
        """
convs.0.lin linear 8
convs.1.lin relu 16
convs.2.lin relu 16
""",
    ),
    "GATv2": Graph(
        basic("GAT", v2=True, heads=4, dropout=0.5),
        """
convs.0.lin_l linear 8
convs.1.lin_l relu 16
convs.1.lin_r relu 16
convs.2.lin_l relu 16
convs.2.lin_r relu 16
""",
    ),
    "PNA": Graph(
        basic("PNA", **PNA),
        """
convs.0.pre_nns.0.0 linear 16
convs.0.lin linear 16
convs.1.pre_nns.0.0 relu 32
convs.1.lin linear 16
convs.2.pre_nns.0.0 relu 32
""",
    ),
    "EdgeCNN": Graph(
        basic("EdgeCNN"),
        """
convs.0.nn.lins.0 linear 16
convs.0.nn.lins.1 relu 16
convs.1.nn.lins.1 relu 16
convs.2.nn.lins.1 relu 4
""",
    ),
    "SGC": Graph(
        stack("SGConv", (8, 16), (16, 4), K=2),
        """
convs.0.lin linear 8
convs.1.lin relu 16
""",
    ),
    "APPNP": Graph(
        Predict,
        """
lin1 linear 8
lin2 relu 16
""",
    ),
    "ChebConv": Graph(
        stack("ChebConv", (8, 16), (16, 16), (16, 4), K=3),
        """
convs.0.lins.0 linear 8
convs.0.lins.1 linear 8
convs.0.lins.2 linear 8
convs.1.lins.0 relu 16
convs.1.lins.1 relu 16
convs.1.lins.2 linear 16
convs.2.lins.1 relu 16
convs.2.lins.2 linear 16
""",
    ),
    "TransformerConv": Graph(
        stack("TransformerConv", (8, 4), (16, 4), (16, 1), heads=4),
        """
convs.0.lin_key linear 8
convs.0.lin_skip linear 8
convs.1.lin_key relu 16
convs.1.lin_query relu 16
convs.1.lin_value relu 16
convs.1.lin_skip relu 16
convs.2.lin_key relu 16
convs.2.lin_query relu 16
convs.2.lin_value relu 16
convs.2.lin_skip relu 16
""",
    ),
    "RGCN": Graph(
        stack("RGCNConv", (8, 16), (16, 4), num_relations=3),
        """
convs.0 linear 8
convs.0.root linear 8
convs.1 relu 16
convs.1.root relu 16
""",
        lambda: (torch.randint(0, 3, (EDGES,)),),
    ),
    "GPS": Graph(
        Transformer,
        """
encoder linear 8
convs.0.conv.nn.0 linear 16
convs.0.conv.nn.2 relu 16
convs.0.attn.out_proj linear 16
convs.1.conv.nn.0 linear 16
convs.1.conv.nn.2 relu 16
convs.1.attn.in_proj_weight.q linear 16
convs.1.mlp.0 linear 16
convs.1.mlp.3 relu 32
head linear 16
""",
    ),
    "DeepGCN": Graph(
        Deep,
        """
encoder linear 8
layers.0.conv.mlp.4 relu 32
layers.2.conv.mlp.4 relu 32
head relu 16
""",
    ),
    "SchNet": Graph(
        schnet,
        """
interactions.0.mlp.0 linear 10
interactions.0.mlp.2 sampled 16
interactions.0.conv.lin1 linear 16
interactions.0.lin sampled 16
interactions.1.conv.lin1 linear 16
lin1 linear 16
lin2 sampled 8
""",
        atoms=True,
    ),
    "MPNN": Graph(
        Messages,
        """
lin0 linear 8
conv.nn.0 linear 5
conv.nn.2 relu 12
gru.weight_ih_l0.reset relu 16
gru.weight_ih_l0.update relu 16
gru.weight_ih_l0.new relu 16
lin2 relu 16
""",
        lambda: (torch.randn(EDGES, 5),),
    ),
}
