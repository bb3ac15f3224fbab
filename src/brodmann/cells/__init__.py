"""Cells: CellTransformer, tissue domains of spatial transcriptomics (Lee et al., Nat Commun 16, 2025)."""
