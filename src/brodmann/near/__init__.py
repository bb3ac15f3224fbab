"""Who lies near whom in a section: neighbours within a radius and Gaussian means, for any number of places."""
