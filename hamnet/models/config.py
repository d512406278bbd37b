"""Size and parts of a network."""

from typing import Literal

from pydantic import Field

from hamnet.validation import Section


class ModelConfig(Section):
    """Size and parts of the network."""

    name: str = "so2"
    """Name in the registry `hamnet.models.MODELS`."""
    l_max: int | None = Field(default=None, ge=0, le=8)
    """Largest degree of the features; None: twice the basis's largest angular momentum, one more
    with spin-orbit coupling, of crystals at least 4."""
    channels: int = Field(default=64, ge=1)
    """Natural channels of an atom and of a pair."""
    pseudo_channels: int = Field(default=16, ge=0)
    """Channels of the other parity, (-1)^(l+1)."""
    layers: int = Field(default=2, ge=0)
    """Message-passing layers."""
    pair_layers: int = Field(default=2, ge=1)
    """Layers on the pairs' own features."""
    node_expansion: int = Field(default=4, ge=0)
    """Further features of an atom for the readout, in multiples of the channels; 0 for none."""
    message_cutoff: float = Field(default=8.0, gt=0)
    """Pairs closer than this exchange messages, Angstrom."""
    message_range: float = Field(default=2.3, gt=0)
    """Messages fade as exp(-(r / range)^2), Angstrom: neighbours count more than what is far."""
    pair_cutoff: float = Field(default=12.0, gt=0)
    """Pairs closer than this have a block; it falls smoothly to zero there, Angstrom."""
    density_weight: float | None = Field(default=None, ge=0)
    """Size of the features of atoms that are made of the density of H0's orbitals; None: 0.2 for
    molecules with the reference ``minao``, without spin-orbit coupling. No other H0 has a density
    that helps, and then it is 0."""
    n_radial: int = Field(default=16, ge=2)
    """Gaussians on the distance."""
    radial_hidden: int = Field(default=64, ge=1)
    """Width of the radial networks."""
    tracegrad: Literal["none", "nodes", "pairs", "both"] = "both"
    """Where induced features are added and label invariants supervised."""
    tracegrad_features: bool = True
    """Add the induced features; false: label invariants are only supervised."""
    tracegrad_rank: int = Field(default=16, ge=1)
    """Invariants made of each group of components."""
    tracegrad_hidden: int = Field(default=64, ge=1)
    """Width of the invariant encoder, and number of its invariants."""
