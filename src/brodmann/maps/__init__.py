"""Tables back into brains: labels on sections and in volumes, figures, and one report a scientist would forward."""
