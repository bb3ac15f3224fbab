"""The geometry of cortex: depth, thickness, curvature and upright places, from a mask of a section or from surfaces."""
