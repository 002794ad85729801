"""What goes (plan), the cuts themselves (slicing), and making up for them (refit)."""
