"""Equations of motion, without rewards: tetrahedral soft bodies and their contact with the ground."""

from penstock.physics.contact import ConstantContact, Contact, MassScaledContact
from penstock.physics.elastic import Material
from penstock.physics.mesh import TetMesh, surface, tet_volumes, voxel_mesh
from penstock.physics.mesh_files import read_mesh, write_mesh
from penstock.physics.quality import check_mesh, inverted_elements, mean_ratio, require_not_inverted, volume_ratios
from penstock.physics.soft_body import Motion, SoftBody, elastic_energy, elastic_forces, simulate, substep
from penstock.physics.stability import (
    StabilityLimits,
    StabilityWarning,
    max_stable_timestep,
    stability_limits,
    warn_if_unstable,
)

__all__ = [
    "ConstantContact",
    "Contact",
    "MassScaledContact",
    "Material",
    "Motion",
    "SoftBody",
    "StabilityLimits",
    "StabilityWarning",
    "TetMesh",
    "check_mesh",
    "elastic_energy",
    "elastic_forces",
    "inverted_elements",
    "max_stable_timestep",
    "mean_ratio",
    "read_mesh",
    "require_not_inverted",
    "simulate",
    "stability_limits",
    "substep",
    "surface",
    "tet_volumes",
    "volume_ratios",
    "voxel_mesh",
    "warn_if_unstable",
    "write_mesh",
]
