"""From one stage to the next on evidence, and back."""
