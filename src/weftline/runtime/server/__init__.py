"""A small server of our own: any machine, exact, and free with its pages."""
