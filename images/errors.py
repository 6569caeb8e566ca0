"""What goes wrong when an image is built."""


class ImageError(Exception):
    """One line that names the image or the program, and the fix."""
